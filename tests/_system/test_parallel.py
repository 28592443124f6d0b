"""Work in processes: the order and the errors of threads, and nobody left behind."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from asdgan._system import parallel
from asdgan._system.parallel import in_order
from asdgan.data.wav import require_file
from asdgan.errors import BadInput

# What a person may type into a notebook: no guard, and a main module that no file holds.
UNGUARDED = """
import sys, time
from asdgan._system.parallel import in_order
print("once", flush=True)
for _ in in_order(bytes, [(1,)] * 4, hands=2, apart=True):
    pass
for _ in in_order(time.sleep, [(0,)] + [(600,)] * 9, hands=2, apart=True):
    print("first", flush=True)
"""


def children(parent: int) -> set[int]:
    """Processes that a process started and that did not end."""
    of = Path(f"/proc/{parent}/task").glob("*/children")
    return {int(word) for path in of for word in path.read_text().split()}


def alive(process: int) -> bool:
    """Whether it runs; one that ended and that nobody asked about does not."""
    try:
        return ") Z " not in Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
def rested():
    """No process waits for work, before or after."""
    parallel.dismiss()
    yield
    parallel.dismiss()


@pytest.mark.parametrize("apart", [False, True])
def test_answers_come_in_the_order_of_the_pieces(apart):
    sizes = [300_000, *range(50)]  # the first takes longest
    found = list(in_order(bytes, ((size,) for size in sizes), hands=3, apart=apart))
    assert found == [bytes(size) for size in sizes]


def test_processes_wait_for_more_work_and_end_where_none_comes(rested, monkeypatch):
    monkeypatch.setattr(parallel, "IDLE", 0.5)
    before = children(os.getpid())
    began = [set(in_order(os.getpid, [()] * 20, hands=2, apart=True)) for _ in range(2)]
    assert parallel.ready(2)
    assert not parallel.ready(3)
    assert children(os.getpid()) - before == began[0] | began[1]
    assert len(began[0] | began[1]) == 2
    assert set(in_order(os.getpid, [()] * 20, hands=3, apart=True)).isdisjoint(began[0])
    until = time.monotonic() + 30
    while children(os.getpid()) != before and time.monotonic() < until:
        time.sleep(0.05)
    assert children(os.getpid()) == before
    assert not parallel.ready(3)


def test_work_that_failed_leaves_no_process(rested):
    before = children(os.getpid())
    with pytest.raises(ZeroDivisionError):
        list(in_order(divmod, [(1, 0)], hands=2, apart=True))
    in_order(bytes, [(1,)] * 99, hands=2, apart=True).close()
    assert children(os.getpid()) == before


def test_a_process_that_ended_while_it_waited_is_made_anew(rested):
    [found] = in_order(os.getpid, [()], hands=1, apart=True)
    os.kill(found, signal.SIGKILL)
    until = time.monotonic() + 30
    while parallel.ready(1) and time.monotonic() < until:
        time.sleep(0.05)
    assert [*in_order(os.getpid, [()], hands=1, apart=True)] != [found]


def test_there_is_a_usable_core():
    assert parallel.usable_cores() >= 1


@pytest.mark.parametrize("apart", [False, True])
def test_no_more_pieces_are_taken_than_are_in_work(apart):
    taken = []
    answers = in_order(bytes, ((taken.append(i) or i,) for i in range(99)), hands=2, apart=apart)
    assert next(answers) == b""
    assert len(taken) == 5
    answers.close()


@pytest.mark.parametrize("apart", [False, True])
def test_a_refusal_is_the_same_sentence_from_a_process(tmp_path, apart):
    gone = tmp_path / "gone.wav"
    with pytest.raises(BadInput) as found:
        list(in_order(require_file, [(gone,)], hands=2, apart=apart))
    assert str(found.value).startswith(f"{gone}: no such file; check the path, or download")


def test_a_bug_in_a_process_says_where_it_is():
    with pytest.raises(ZeroDivisionError) as found:
        list(in_order(partial(divmod, 1), [(0,)], hands=1, apart=True))
    assert "asdgan/_system/parallel.py" in found.value.__notes__[0]


@pytest.mark.parametrize(
    ("function", "words"),
    [(signal.raise_signal, r"was killed \(SIGKILL\), as the system"), (os._exit, "exit code 9")],
)
def test_a_process_that_is_gone_is_named_and_not_waited_for(function, words):
    with pytest.raises(BadInput, match=rf"{words}.*trainer\.threads=1"):
        list(in_order(function, [(9,)] * 20, hands=2, apart=True))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_program_without_a_guard_ends_at_once_and_leaves_no_process(number):
    command = [sys.executable, "-"]
    with subprocess.Popen(
        command, stdin=-1, stdout=-1, stderr=-1, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as program:  # fmt: skip
        assert program.stdin is not None
        assert program.stdout is not None
        program.stdin.write(UNGUARDED)
        program.stdin.close()
        assert [program.stdout.readline() for _ in range(2)] == ["once\n", "first\n"]
        started = children(program.pid)
        program.send_signal(number)
        assert program.wait(30) == -number
    assert len(started) == 2
    until = time.monotonic() + 30
    while any(map(alive, started)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(alive, started))
