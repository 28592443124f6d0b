"""README's shell blocks, run as they stand, in a folder of their own and with no network.

The line above a block says what happens to it: `<!-- run -->`, `<!-- run with epochs=1 -->` (words
added to every training, where the whole would take too long here) or `<!-- not run: reason -->`.
pip and pytest are never run. A block that speaks of ../shared is skipped where that is absent.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(
    r"^([^\n]*)\n```(?:bash|sh|shell|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL
)
MARK = re.compile(r"<!-- (?:run(?: with (?P<words>[^>]+))?|not run: (?P<reason>[^>]+)) -->")
NOWHERE = "http://127.0.0.1:9"  # nothing listens there, so a download fails at once
OFFLINE = {"http_proxy": NOWHERE, "https_proxy": NOWHERE, "no_proxy": "", "HF_HUB_OFFLINE": "1"}


def blocks():
    """Each shell block of the README: the line above it and its body."""
    return BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))


def commands():
    """Each command of a block that is run: its words, and whether it needs the real clips."""
    found = []
    for above, body in blocks():
        mark = MARK.fullmatch(above)
        if mark is None or mark["reason"]:
            continue
        lines = [line for line in body.splitlines() if line and not line.startswith("#")]
        for part in (part for line in lines for part in line.split(" && ")):
            words = shlex.split(part, comments=True)
            if words[:3] in (["python", "-m", "pip"], ["python", "-m", "pytest"]):
                continue
            if words[0] == "asdgan":
                words[:1] = ["python", "-m", "asdgan"]
            if "asdgan.run" in words or words[2:4] == ["asdgan", "run"]:
                words += shlex.split(mark["words"] or "")
            found.append(pytest.param(words, "../shared" in body, id=" ".join(words)))
    return found


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """Stands for the checkout; one for all, because a later command reads earlier results."""
    folder = tmp_path_factory.mktemp("readme") / "checkout"
    folder.mkdir()
    return folder


@pytest.fixture
def beside(request, checkout):
    """Puts the real clips beside the checkout, or skips."""

    def put():
        link = checkout.parent / "shared"
        if not link.exists():
            link.symlink_to(request.getfixturevalue("shared"))

    return put


def test_every_shell_block_is_marked():
    assert blocks()
    assert not [body for above, body in blocks() if not MARK.fullmatch(above)]


def test_only_pip_and_pytest_are_not_run():
    idle = [body for above, body in blocks() if above.startswith("<!-- not run")]
    assert not [body for body in idle if not re.search(r"\b(?:pip|pytest)\b", body)]


@pytest.mark.slow
@pytest.mark.parametrize(("words", "needs_clips"), commands())
def test_a_command_of_the_readme_runs(words, needs_clips, checkout, beside):
    if needs_clips:
        beside()
    assert words[0] == "python"
    done = subprocess.run(
        [sys.executable, *words[1:]],
        cwd=checkout,
        env={**os.environ, **OFFLINE, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert {path.name for path in checkout.iterdir()} <= {"outputs"}
