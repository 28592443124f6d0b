import os

import pytest

from asdgan.sweep.workers import slots
from asdgan.sweep.workers.slots import Slot

TWO = "GPU 0: NVIDIA A (UUID: GPU-aaaa-1)\nGPU 1: NVIDIA B (UUID: GPU-bbbb-2)\n"
SLICED = (
    "GPU 0: NVIDIA H (UUID: GPU-cccc-3)\n"
    "  MIG 1g.18gb     Device  0: (UUID: MIG-dddd-4)\n"
    "  MIG 1g.18gb     Device  1: (UUID: MIG-eeee-5)\n"
    "GPU 1: NVIDIA H (UUID: GPU-ffff-6)\n"
)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine of so many cores, whose nvidia-smi, if it has one, lists what it is told."""

    def make(listed, cores, code=0):
        monkeypatch.setattr(slots, "usable_cores", lambda: cores)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/nowhere")
        for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"):
            monkeypatch.delenv(name, raising=False)
        if listed is not None:
            program = tmp_path / "nvidia-smi"
            program.write_text(f"#!/bin/sh\necho '{listed}'\nexit {code}\n")
            program.chmod(0o755)

    return make


def names(found):
    return [slot.gpu for slot in found]


def test_each_gpu_has_its_slots_and_all_share_the_cores(machine):
    machine(TWO, cores=16)
    assert slots.slots(2, None) == [Slot("0", 4), Slot("1", 4), Slot("0", 4), Slot("1", 4)]


@pytest.mark.parametrize(
    ("cpu_slots", "threads"), [(None, [1] * 6), (4, [2, 2, 1, 1]), (1, [6]), (8, [1] * 8)]
)
def test_without_a_gpu_the_cores_are_divided_fairly(machine, cpu_slots, threads):
    machine(None, cores=6)
    assert slots.slots(1, cpu_slots) == [Slot(None, count) for count in threads]


def test_more_threads_than_the_environment_allows_are_never_given(machine, monkeypatch):
    machine(None, cores=8)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert slots.slots(1, 2) == [Slot(None, 3)] * 2


@pytest.mark.parametrize(
    ("visible", "found"),
    [
        ("1", ["1"]),
        ("1,0", ["1", "0"]),
        ("GPU-bbbb", ["GPU-bbbb"]),
        ("0,-1,1", ["0"]),
        ("0,2", ["0"]),
        ("GPU-zzzz", [None]),
        ("-1", [None]),
        ("", [None]),
    ],
)
def test_only_visible_gpus_count_up_to_the_first_that_is_none(
    machine, monkeypatch, visible, found
):
    machine(TWO, cores=1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert names(slots.slots(1, None)) == found


def test_a_gpu_in_slices_counts_by_slice(machine):
    machine(SLICED, cores=3)
    assert names(slots.slots(1, None)) == ["MIG-dddd-4", "MIG-eeee-5", "1"]


def test_a_driver_that_does_not_answer_is_no_gpu_and_says_so(machine, caplog):
    machine("Driver/library version mismatch", cores=1, code=18)
    assert slots.slots(1, None) == [Slot(None, 1)]
    assert "nvidia-smi gives no list of GPUs, so none is used" in caplog.text


@pytest.mark.parametrize(("gpu", "cpu"), [(0, None), (1, 0)])
def test_less_than_one_slot_is_refused(gpu, cpu):
    with pytest.raises(ValueError, match="at least one of each is needed"):
        slots.slots(gpu, cpu)
