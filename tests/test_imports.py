"""The arrows between rooms, read from the import statements of every file of the package."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEAVY = {"torch", "torchaudio", "pytorch_lightning", "hydra", "optuna", "sklearn", "librosa"}
LIGHT = [
    "asdgan",
    "asdgan.errors",
    "asdgan._system.files",
    "asdgan._system.parallel",
    "asdgan.data.releases",
    "asdgan._system.resources",
    "asdgan.config.rules",
    "asdgan.data.folders",
    "asdgan.data.labels",
    "asdgan.data.clips",
    "asdgan.data.bad_clips",
    "asdgan.training.machine_data",
    "asdgan.data",
    "asdgan.results.ledger",
    "asdgan.results.failures",
    "asdgan.nn.health",
    "asdgan.report.published",
    "asdgan.report.formats",
    "asdgan.results.points",
    "asdgan.results.ranking",
    "asdgan.results.choose",
    "asdgan.results.bootstrap",
    "asdgan.results.intervals",
    "asdgan.report.significance",
    "asdgan.report.board",
    "asdgan.results.challenge.official",
    "asdgan.results.challenge.score_files",
    "asdgan.results.challenge.ground_truth",
    "asdgan.results.challenge.judge",
    "asdgan.deploy.submission",
    "asdgan.results.threshold",
    "asdgan.deploy.score",
    "asdgan.report.split_half",
    "asdgan.report.selection",
    "asdgan.sweep.workers.slots",
    "asdgan.sweep.workers.worker",
    "asdgan.sweep.workers.pool",
]
NAMELESS = set("utils helpers common base core registry factory manager".split())


def modules():
    """Every module of the package by its dotted name, with its parsed file."""
    found = {}
    for path in sorted((ROOT / "asdgan").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return found


def imported(name, tree, known):
    """What a module imports of the package, wherever in the file the statement stands."""
    targets = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively, line {node.lineno}"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                targets.add(whole if whole in known else str(node.module))
    return {target for target in targets if target in known and target != "asdgan"}


def arrows():
    known = modules()
    return {name: imported(name, tree, known) for name, tree in known.items()}


def room(name):
    return [*name.split("."), ""][1]


def test_no_imports_go_in_a_circle():
    assert list(graphlib.TopologicalSorter(arrows()).static_order())


def test_nothing_imports_run_but_the_entry_point():
    importers = {name for name, targets in arrows().items() if "asdgan.run" in targets}
    assert importers <= {"asdgan.__main__"}


def test_one_model_never_imports_another():
    wrong = {
        name: targets
        for name, found in arrows().items()
        if room(name) == "models" and (targets := {t for t in found if room(t) == "models"})
    }
    assert not wrong


def test_no_room_has_a_name_that_says_nothing():
    assert not {part for name in modules() for part in name.split(".")} & NAMELESS


def test_light_rooms_import_nothing_heavy():
    code = f"""
import importlib, sys
for name in {LIGHT}:
    importlib.import_module(name)
    print(*(f"{{name}} imports {{heavy}}" for heavy in {sorted(HEAVY)} if heavy in sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


def test_planning_loads_no_torch():
    """A plan of 40,000 points is made faster than torch and Lightning are loaded."""
    code = "import sys, asdgan.run, asdgan.sweep.launchers.local, asdgan.report.tables as _; "
    code += "print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not set(done.stdout.split()) & (HEAVY - {"hydra"})


def test_the_entry_point_loads_only_the_module_that_was_asked_for():
    imports = [n for n in modules()["asdgan.__main__"].body if isinstance(n, ast.ImportFrom)]
    assert not [node.module for node in imports if str(node.module).startswith("asdgan")]
