"""Builds the wheel, installs it into a clean virtual environment, and trains in an empty folder.

    python checks/clean_install.py             # dependencies from the package index: minutes, 5 GB
    python checks/clean_install.py --borrow    # those of this interpreter: seconds

Says what the wheel puts into site-packages, and fails where that is more or less than it should
be, where the installed package does not run outside the checkout, or writes beyond outputs/.
Words after `--` replace the training's own: `... --borrow -- model=dcase_ae machine=fan epochs=1`.
"""

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
import zipfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOP = {"asdgan", "hydra_plugins"}
TRAINING = ["model=ganomaly", "machine=fan", "epochs=1"]


def build(folder):
    """The wheel of the checkout as it stands, built from its own source archive."""
    copied = folder / "checkout"
    ask = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(ask, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (copied / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copied / name)
    subprocess.run([sys.executable, "-m", "build", "--outdir", folder, copied], check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel, copied


def travelling(copied):
    """What the wheel should hold, besides its own records."""
    moved = {"asdgan": "asdgan", "hydra_plugins": "hydra_plugins"}
    moved |= {"conf": "asdgan/conf", "sweeps": "asdgan/sweeps"}
    return {
        f"{target}/{path.relative_to(copied / source).as_posix()}"
        for source, target in moved.items()
        for path in (copied / source).rglob("*")
        if path.is_file()
    }


def complaints(wheel, copied):
    """What is wrong with the wheel's list of files, one sentence each."""
    names = set(zipfile.ZipFile(wheel).namelist())
    own = {name for name in names if name.split("/")[0].endswith(".dist-info")}
    for folder, count in sorted(Counter(str(Path(name).parent) for name in names).items()):
        print(f"  {count:4} {folder}")
    found = [f"spilled into site-packages: {n}" for n in names - own if n.split("/")[0] not in TOP]
    found += [f"missing from the wheel: {name}" for name in travelling(copied) - names]
    found += [f"not in the checkout: {name}" for name in names - own - travelling(copied)]
    if "hydra_plugins/__init__.py" in names:
        found.append("hydra_plugins must stay a namespace: remove its __init__.py")
    return sorted(found)


def environment(folder, wheel, borrow):
    """A clean virtual environment that holds the wheel; gives its interpreter."""
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    extra = []
    if borrow:
        ask = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
        site = Path(subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip())
        # A path in a .pth file is searched last, and the .pth files below it are not obeyed: an
        # editable asdgan of the lender stays out.
        (site / "borrowed.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
        extra = ["--no-deps"]
    subprocess.run([python, "-m", "pip", "install", *extra, wheel], check=True)
    return python


def train(python, folder, words):
    """Runs the installed package where nothing else is; gives one sentence per complaint."""
    folder.mkdir()
    clean = {name: text for name, text in os.environ.items() if not name.startswith("PYTHON")}
    found = []
    for command in (["asdgan.run", *words], ["asdgan", "board"]):
        done = subprocess.run([python, "-m", *command], cwd=folder, env=clean)
        if done.returncode:
            found.append(f"python -m {' '.join(command)}: exit code {done.returncode}")
    ask = [python, "-c", "import asdgan; print(asdgan.__file__)"]
    where = subprocess.run(ask, cwd=folder, env=clean, capture_output=True, text=True).stdout
    if "site-packages" not in where:
        found.append(f"not the installed package was run, but {where.strip()}")
    strays = {path.name for path in folder.iterdir()} - {"outputs"}
    return found + [f"written beside outputs/: {name}" for name in sorted(strays)]


def main():
    """Gives the exit code: 0, or 1 with the complaints printed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--borrow", action="store_true", help="use this interpreter's packages")
    parser.add_argument("words", nargs="*", default=TRAINING, help="of the training")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="asdgan-install-") as temporary:
        work = Path(temporary)
        wheel, copied = build(work)
        print(f"\n{wheel.name} puts into site-packages:")
        found = complaints(wheel, copied)
        python = environment(work / "venv", wheel, asked.borrow)
        found += train(python, work / "empty", asked.words)
    for complaint in found:
        print(f"install_check: {complaint}", file=sys.stderr)
    print(f"\ninstall check: {'FAILED' if found else 'passed'}")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
