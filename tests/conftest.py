import atexit
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from small_plant import PLANT

ROOT = Path(__file__).resolve().parent.parent

# Set before torch is imported: a test run leaves nothing in a home folder, and no compiled step of
# an earlier run answers for the code of this one.
# The processes that run tests side by side inherit both folders from the first, which clears up.
if "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
    _scratch = tempfile.mkdtemp(prefix="asdgan-tests-")
    atexit.register(shutil.rmtree, _scratch, ignore_errors=True)
    for _name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        os.environ.setdefault(_name, str(Path(_scratch) / _name.lower()))
# Small steps gain nothing from a second thread, and wait for it where the core is not free.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def shared():
    """The folder of real clips, published weights and organisers' cases; see CONTRIBUTING.md."""
    named = os.environ.get("ASDGAN_SHARED")
    folder = Path(named) if named else ROOT.parent / "shared"
    if not (folder / "data").is_dir():
        told = f"ASDGAN_SHARED={named}" if named else "ASDGAN_SHARED is not set"
        pytest.skip(
            f"no shared material ({told}); set it to the folder that holds data/ and golden/"
        )
    return folder.resolve()


@pytest.fixture(scope="session")
def repository():
    """The root of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def plant(tmp_path_factory):
    """The folder of a demo plant of one machine type, made once."""
    from asdgan.config import compose
    from asdgan.training import machine_data

    config = compose.compose([*PLANT, f"outputs={tmp_path_factory.mktemp('plant')}"])
    return machine_data.root_of(config, lambda title, total: lambda count=1: None)
