"""What takes torch is answered by another process, which is gone when the one that asked is."""

import signal
from pathlib import Path

import pytest
from processes import are_gone, children, start, until
from small_plant import PLANT, TINY

from asdgan import run

ASKING = """
from omegaconf import OmegaConf
from asdgan.sweep import probe
config = OmegaConf.create({"model": {"_target_": "asdgan.models.none.None"}})
print(probe.answers("asdgan.sweep.building:why_not", [config], failing="it failed"))
"""


def loads_torch(pid):
    return "libtorch" in Path(f"/proc/{pid}/maps").read_text()


def answers(pid):
    try:
        return b"asdgan.sweep.probe" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # a child of another kind, gone again
        return False


def asked(parent):
    """The process that was asked, once there is one."""
    found = []
    assert until(lambda: found.extend(filter(answers, children(parent.pid))) or found, 300)
    return found[0]


@pytest.mark.parametrize("claim", [lambda pid: True, loads_torch], ids=["at once", "in torch"])
def test_the_process_that_answers_is_gone_with_the_one_that_asked(tmp_path, claim):
    parent = start("-c", ASKING, folder=tmp_path)
    found = asked(parent)
    assert until(lambda: claim(found), 300)
    parent.kill()
    assert are_gone([found])
    parent.communicate()


def test_ctrl_c_while_a_sweep_is_planned_is_one_line(plant, tmp_path):
    typed = ["-m", "model=ganomaly", "seed=0,1", *PLANT, *TINY, f"dataset.root={plant}"]
    parent = start("-m", "asdgan.run", *typed, folder=tmp_path)
    found = asked(parent)
    parent.send_signal(signal.SIGINT)
    said, _ = parent.communicate(timeout=60)
    assert parent.returncode == 130, said
    assert said.count("\n") == 1
    assert f"the same command goes on from there: python -m asdgan.run {' '.join(typed)}" in said
    assert are_gone([found])
    assert not (tmp_path / "outputs" / "runs").exists()


def test_ctrl_c_before_a_sweep_is_planned_is_one_line(monkeypatch, capsys):
    def pressed(typed):
        raise KeyboardInterrupt

    monkeypatch.setattr(run.sweep, "expanded", pressed)
    assert run.main(["-m", "model=ganomaly"]) == 130
    assert capsys.readouterr().out == "stopped; the same command goes on from here\n"
