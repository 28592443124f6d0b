"""The project's own files: lock file, pyproject, CI, README, and what no tracked file may say."""

import itertools
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
BANNED = {"pytorch-lightning": {Version("2.6.2"), Version("2.6.3")}}  # malicious releases
TEST_COMMAND = "python -m pip install -e '.[test]' && python -m pytest"


def text(name):
    return (ROOT / name).read_text(encoding="utf-8")


def project():
    return tomllib.loads(text("pyproject.toml"))["project"]


def pins():
    """What the lock file pins: name to its line and its hashes."""
    lines = "\n".join(line.split("#")[0] for line in text("requirements.lock").splitlines())
    entries = re.sub(r"\\\n\s*", "", lines).split("\n")
    return {
        canonicalize_name(re.split(r"[=\[ ]", entry)[0]): (
            entry.split()[0],
            re.findall(r"--hash=sha256:([0-9a-f]{64})(?=\s|$)", entry),
        )
        for entry in entries
        if entry.strip()
    }


def listed_comments(table):
    """Every quoted line of the arrays of a table of pyproject, with the comment beside it."""
    body = text("pyproject.toml").split(f"[{table}]\n")[1].split("\n[")[0]
    rows = re.findall(r'^ *"((?:[^"\\]|\\.)*)",? *(?:#(.*))?$', body, re.MULTILINE)
    return [(entry, comment.strip()) for entry, comment in rows]


def test_every_locked_package_is_pinned_and_hashed():
    wrong = {n: line for n, (line, hashes) in pins().items() if "==" not in line or not hashes}
    assert pins()
    assert not wrong


def test_the_lock_file_names_no_index_and_no_local_build():
    foreign = re.compile(r"^-|://|file:| @ |==\S*\+")
    assert not [line for line in text("requirements.lock").splitlines() if foreign.search(line)]


def test_no_banned_release_is_locked():
    for name, releases in BANNED.items():
        assert Version(pins()[name][0].split("==")[1]) not in releases


@pytest.mark.parametrize("name", sorted(BANNED))
def test_a_banned_release_is_excluded_by_name(name):
    (wanted,) = (r for r in map(Requirement, project()["dependencies"]) if r.name == name)
    assert BANNED[name] <= {Version(s.version) for s in wanted.specifier if s.operator == "!="}


def test_the_lock_file_agrees_with_pyproject():
    extras = project()["optional-dependencies"]
    for wanted in map(Requirement, project()["dependencies"] + extras["test"]):
        pinned = pins()[canonicalize_name(wanted.name)][0].split("==")[1]
        assert wanted.specifier.contains(pinned), f"{wanted} is locked at {pinned}"


@pytest.mark.parametrize("extra", ["dependencies", *project()["optional-dependencies"]])
def test_every_dependency_says_why_it_is_there(extra):
    tables = ["project", "project.optional-dependencies"]
    reasons = {entry: why for table in tables for entry, why in listed_comments(table)}
    listed = {**project()["optional-dependencies"], "dependencies": project()["dependencies"]}
    assert not [entry for entry in listed[extra] if len(reasons.get(entry, "").split()) < 3]


def test_every_rule_switched_off_says_why():
    silent = [
        entry
        for entry, why in listed_comments("tool.ruff.lint.per-file-ignores")
        if len(why.split()) < 3
    ]
    rules = tomllib.loads(text("pyproject.toml"))["tool"]["ruff"]["lint"]
    assert not silent
    assert "ignore" not in rules


def test_every_allowed_warning_says_why():
    lines = text("pyproject.toml").split("filterwarnings = [")[1].split("\n]")[0].splitlines()
    pairs = itertools.pairwise(lines)
    assert not [line for above, line in pairs if '"ignore:' in line and "  # " not in above]


def test_the_checks_before_a_commit_are_those_of_ci():
    (local,) = yaml.safe_load(text(".pre-commit-config.yaml"))["repos"]
    steps = set(re.findall(r'^step "([^"$]+)"', text(".ci/run"), re.MULTILINE))
    hooks = {hook["entry"] for hook in local["hooks"]}
    assert {step.split(" && ")[-1] for step in steps} == hooks


def test_ci_runs_the_test_command_of_the_readme():
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert f"\n  {TEST_COMMAND}" in text(".ci/run")
    assert f"\n{TEST_COMMAND}\n" in text("README.md")


def test_the_readme_is_short():
    assert len(text("README.md").splitlines()) < 150


def test_the_readme_has_its_parts_in_order():
    wanted = ["Leaderboard", "Three commands", "Getting the data", "Reproducing"]
    wanted += ["Adding a model", "The map", "Citing"]
    titles = re.findall(r"^## (.*)$", text("README.md"), re.MULTILINE)
    assert [next(filter(title.startswith, wanted), title) for title in titles] == wanted


def test_no_tracked_file_names_a_machine():
    ask = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(ask, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout, so nothing is tracked")
    folder = r"(?:^|[^.\w$}])/(?:tmp|root|home|mnt|work|opt|Users)/|[A-Z]:\\Users"
    host = r"\b(?!127\.|0\.0\.0\.0)(?:\d{1,3}\.){3}\d{1,3}\b|\w\.(?:internal|lan|localdomain)\b"
    found = []
    for name in done.stdout.splitlines():
        path = ROOT / name
        if path.is_file() and name != "requirements.lock":  # versions there look like addresses
            body = path.read_text(encoding="utf-8", errors="replace")
            found += [f"{name}: {hit[0]}" for hit in re.finditer(f"{folder}|{host}", body)]
    assert not found
