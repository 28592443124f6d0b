"""The pool, its seats and its worker processes, over jobs that import nothing heavy."""

import json
import os
import re
import signal
import time

import pytest
from failing_jobs import resident
from processes import GONE_SECONDS, are_gone, is_alive, start, until

from asdgan.sweep.workers.pool import Job, Pool
from asdgan.sweep.workers.slots import Slot

SILENCE = 5  # seconds: much longer than any job here is silent that does not hang
DEATHS = {
    "raises": ("raised", r"ValueError: no such fan \(failing_jobs\.py:\d+\)"),
    "raises_below": ("raised", r"JSONDecodeError: Expecting .* \(failing_jobs\.py:\d+\)"),
    "raises_silently": (
        "raised",
        r"Unspeakable: \(its message cannot be read\) \(failing_jobs\.py:\d+\)",
    ),
    "raises_at_length": (
        "raised",
        r"ValueError: first words x+ \.\.\. x+ last words \(failing_jobs.*",
    ),
    "sys_exit": ("exit", "exited with code 3 before finishing"),
    "sys_exit_in_words": ("exit", r"exited with code 1 \(no licence\) before finishing"),
    "os_exit": ("exit", "its process ended with code 4 before finishing"),
    "sigkill": ("killed", "killed by SIGKILL; out of memory is a usual cause"),
    "sigsegv": ("killed", r"killed by SIGSEGV; its stack is in .*worker_0[01]\.log"),
    "memory_error": ("memory", r"MemoryError \(failing_jobs\.py:\d+\)"),
    "gpu_memory": (
        "memory",
        r"OutOfMemoryError: CUDA out of memory\. Tried .* \(failing_jobs\.py:\d+\)",
    ),
    "torch_on_cpu": (
        "memory",
        r"RuntimeError: DefaultCPUAllocator: can't .*\(failing_jobs\.py:\d+\)",
    ),
    "not_finite": ("nan", r"FloatingPointError: loss_g at step 12 \(failing_jobs\.py:\d+\)"),
    "hangs": ("hung", r"no sign of life for 5 s; its stacks are in .*worker_0[01]\.log"),
    "hangs_with_lock": ("hung", r"no sign of life for 5 s; .*"),
}
PARENT = """
import sys
from pathlib import Path
from asdgan.sweep.workers.slots import Slot
from asdgan.sweep.workers.pool import Job, Pool
plan, jobs, grace = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
with Pool([Slot(None, 1)] * jobs, target="failing_jobs:do", logs=plan.parent, silence=None,
          grace=grace) as pool:
    try:
        pool.run(
            (Job(str(plan), number, f"job {number}") for number in range(jobs + 1)),
            on_start=lambda job: print("started", flush=True),
            on_beat=lambda job, note: None,
            on_end=lambda ended: print(ended.kind, ended.reason, flush=True),
        )
    except KeyboardInterrupt:
        sys.exit(130)
"""


class Record:
    """What a pool said, and the jobs of a plan."""

    def __init__(self, folder, words):
        self.started, self.beats, self.ends = [], [], []
        self.folder, self.plan = folder, folder / "plan.json"
        self.plan.write_text(json.dumps(words))
        self.jobs = [Job(str(self.plan), number, word) for number, word in enumerate(words)]

    def run(self, pool, jobs=None):
        pool.run(
            self.jobs if jobs is None else jobs,
            self.started.append,
            lambda job, note: self.beats.append((job, note)),
            self.ends.append,
        )
        return self

    def kinds(self):
        return {ended.job.number: ended.kind for ended in self.ends}

    def note(self, number):
        return json.loads((self.folder / f"{number}.json").read_text())


@pytest.fixture
def pool(tmp_path):
    with make_pool(tmp_path) as made:
        yield made


def make_pool(folder, slots=1, **words):
    given = {"target": "failing_jobs:do", "silence": 60} | words
    return Pool([Slot(None, 1)] * slots, logs=folder / "logs", **given)


@pytest.fixture
def parent(tmp_path):
    """Starts a pool in a process of its own, a slot per word and one job more."""
    started = []

    def begin(*words, grace=60):
        (tmp_path / "plan.json").write_text(json.dumps([*words, "finish"]))
        plan = str(tmp_path / "plan.json")
        process = start("-c", PARENT, plan, str(len(words)), str(grace), folder=tmp_path)
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def pids(folder):
    """Of the jobs' processes and of those that they started."""
    notes = [json.loads(path.read_text()) for path in folder.glob("[0-9].json")]
    return [pid for note in notes for key, pid in note.items() if key in ("pid", "child")]


@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("death", DEATHS)
def test_a_job_that_dies_is_marked_and_the_others_finish(tmp_path, death, slots):
    kind, reason = DEATHS[death]
    record = Record(tmp_path, ["finish", death, "finish", "finish"])
    with make_pool(tmp_path, slots, silence=SILENCE if kind == "hung" else 60) as pool:
        record.run(pool)
    assert record.kinds() == {0: None, 1: kind, 2: None, 3: None}
    (dead,) = (ended for ended in record.ends if ended.job.number == 1)
    assert re.fullmatch(reason, dead.reason)


@pytest.mark.parametrize("trespass", ["closes_everything", "babbles"])
def test_a_job_that_breaks_into_the_pipes_is_lost_and_the_others_finish(pool, tmp_path, trespass):
    record = Record(tmp_path, ["finish", trespass, "finish"]).run(pool)
    assert record.kinds() == {0: None, 1: "lost", 2: None}
    assert record.ends[1].reason == "its worker hung up without ending; killed"


def test_a_job_that_hangs_is_killed_with_what_it_started(tmp_path):
    record = Record(tmp_path, ["hangs_with_child"])
    with make_pool(tmp_path, silence=1) as pool:
        record.run(pool)
        assert are_gone(pids(tmp_path))
    assert record.kinds() == {0: "hung"}
    assert len(pids(tmp_path)) == 2


@pytest.mark.parametrize("death", ["sigsegv", "hangs", "raises"])
def test_the_log_shows_where_a_job_died(tmp_path, death):
    record = Record(tmp_path, [death])
    with make_pool(tmp_path, silence=1) as pool:
        record.run(pool)
    log = (tmp_path / "logs" / "worker_00.log").read_text()
    assert f"{death} ({record.plan}, job 0)\ndoing {death}\n" in log
    assert f"in {death}\n" in log


def test_one_process_serves_many_jobs_of_many_runs(pool, tmp_path):
    record = Record(tmp_path, ["finish"] * 4)
    record.run(pool, record.jobs[:2]).run(pool, record.jobs[2:])
    assert len({record.note(number)["pid"] for number in range(4)}) == 1


def test_a_process_survives_what_a_job_raises(pool, tmp_path):
    words = ["finish", "raises", "sys_exit", "memory_error", "not_finite", "finish"]
    record = Record(tmp_path, words).run(pool)
    assert record.note(0)["pid"] == record.note(5)["pid"]


def test_an_error_in_a_process_with_cuda_replaces_it(pool, tmp_path):
    record = Record(tmp_path, ["finish", "cuda_error", "finish"]).run(pool)
    assert record.kinds() == {0: None, 1: "raised", 2: None}
    assert record.note(0)["pid"] == record.note("1_cuda")["pid"] != record.note(2)["pid"]


def test_no_more_processes_start_than_there_are_jobs(tmp_path):
    record = Record(tmp_path, ["finish"] * 3)
    with make_pool(tmp_path, slots=64) as pool:
        record.run(pool)
    assert len(list((tmp_path / "logs").iterdir())) == 3


@pytest.mark.slow
def test_64_slots_work_at_once(tmp_path):
    record = Record(tmp_path, ["finish"] * 80)
    with make_pool(tmp_path, slots=64) as pool:
        record.run(pool)
    assert record.kinds() == dict.fromkeys(range(80))
    assert len(set(pids(tmp_path))) > 1


def test_jobs_start_in_order_and_are_taken_when_a_slot_is_free(pool, tmp_path):
    record, taken = Record(tmp_path, ["finish", "raises", "finish"]), []

    def lazily():
        for job in record.jobs:
            assert [ended.job for ended in record.ends] == taken
            taken.append(job)
            yield job

    record.run(pool, lazily())
    assert record.started == record.jobs
    assert [ended.job for ended in record.ends] == record.jobs


def test_a_slow_job_holds_up_no_other(tmp_path):
    record = Record(tmp_path, ["waits_for_others", *["finish"] * 4])
    with make_pool(tmp_path, slots=2) as pool:
        record.run(pool)
    assert record.ends[-1].job.number == 0
    assert record.kinds() == dict.fromkeys(range(5))


def test_beats_arrive_with_their_job(pool, tmp_path):
    record = Record(tmp_path, ["finish", "finish"]).run(pool)
    assert record.beats == [(job, "nearly there") for job in record.jobs]


def test_a_job_that_is_added_runs_before_those_that_wait(pool, tmp_path):
    record = Record(tmp_path, ["gpu_memory", "finish", "finish", "finish"])
    halves = record.jobs[2:]

    def split(ended):
        record.ends.append(ended)
        while ended.kind == "memory" and halves:
            pool.add(halves.pop(0))

    pool.run(record.jobs[:2], lambda job: None, lambda job, note: None, split)
    assert [ended.job.number for ended in record.ends] == [0, 2, 3, 1]


def test_a_job_that_the_last_one_adds_runs_too(pool, tmp_path):
    record = Record(tmp_path, ["raises", "finish"])

    def again(ended):
        record.ends.append(ended)
        if ended.kind:
            pool.add(record.jobs[1])

    pool.run(record.jobs[:1], lambda job: None, lambda job, note: None, again)
    assert record.kinds() == {0: "raised", 1: None}


def test_no_jobs_are_no_work(pool, tmp_path):
    assert Record(tmp_path, []).run(pool).ends == []


def test_an_idle_process_that_was_killed_is_replaced(pool, tmp_path):
    record = Record(tmp_path, ["finish", "finish"])
    record.run(pool, record.jobs[:1])
    os.kill(record.note(0)["pid"], signal.SIGKILL)
    record.run(pool, record.jobs[1:])
    assert record.kinds() == {0: None, 1: None}


def test_a_function_of_the_caller_that_raises_ends_the_jobs_at_hand(pool, tmp_path):
    record = Record(tmp_path, ["hangs", "finish"])
    with pytest.raises(ZeroDivisionError):
        pool.run(record.jobs[:1], lambda job: 1 / 0, record.beats.append, record.ends.append)
    assert record.run(pool, record.jobs[1:]).kinds() == {1: None}


def test_closing_leaves_no_process(tmp_path):
    record = Record(tmp_path, ["finish"] * 4)
    with make_pool(tmp_path, slots=2) as pool:
        record.run(pool)
    assert not any(map(is_alive, pids(tmp_path)))


def test_each_process_has_its_share_of_threads_its_gpu_and_what_was_added(tmp_path):
    (tmp_path / "asking.py").write_text(
        "import json, os\n"
        "def do(plan, number, beat):\n"
        "    names = ['OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'CUDA_VISIBLE_DEVICES', 'ADDED']\n"
        "    beat(json.dumps([os.environ[name] for name in names]))\n"
    )
    record = Record(tmp_path, ["ask"])
    for slot in (Slot("3", 5), Slot(None, 2)):
        given = {"environment": {"ADDED": "yes", "PYTHONPATH": str(tmp_path)}, "silence": None}
        with Pool([slot], target="asking:do", logs=tmp_path, **given) as pool:
            record.run(pool)
    said = [json.loads(note) for _, note in record.beats]
    assert said == [["5", "5", "3", "yes"], ["2", "2", "", "yes"]]


def test_a_target_that_cannot_be_imported_is_one_error(tmp_path):
    record = Record(tmp_path, ["finish"] * 4)
    told = (
        r"no worker for no_such\.module:do could be started on a CPU: "
        r"ModuleNotFoundError: No module named 'no_such' \(.*\); see .*worker_0\d\.log"
    )
    with (
        make_pool(tmp_path, slots=2, target="no_such.module:do") as pool,
        pytest.raises(ChildProcessError, match=told),
    ):
        record.run(pool)
    assert record.ends == record.started == []


def test_a_process_that_dies_before_any_job_is_tried_three_times(tmp_path):
    (tmp_path / "stillborn.py").write_text("import os\nprint('born', flush=True)\nos._exit(7)\n")
    given = {"target": "stillborn:do", "environment": {"PYTHONPATH": str(tmp_path)}}
    with (
        make_pool(tmp_path, **given) as pool,
        pytest.raises(ChildProcessError, match=r"ended with code 7 .*, 3 times before any job"),
    ):
        Record(tmp_path, ["finish"]).run(pool)
    assert (tmp_path / "logs" / "worker_00.log").read_text() == "born\n" * 3


def test_a_slot_on_which_nothing_starts_leaves_its_job_to_the_others(tmp_path, caplog):
    (tmp_path / "picky.py").write_text(
        "import os\n"
        "from failing_jobs import do\n"
        "if os.environ['CUDA_VISIBLE_DEVICES'] == '7':\n    raise OSError('broken')\n"
    )
    given = {"environment": {"PYTHONPATH": str(tmp_path)}, "silence": None}
    record = Record(tmp_path, ["finish"] * 3)
    with Pool([Slot("7", 1), Slot("0", 1)], target="picky:do", logs=tmp_path, **given) as pool:
        record.run(pool)
    assert record.kinds() == {0: None, 1: None, 2: None}
    assert "started on GPU 7: OSError: broken (picky.py:4)" in caplog.text


def test_a_pool_needs_a_slot(tmp_path):
    with pytest.raises(ValueError, match="a pool without slots does nothing"):
        make_pool(tmp_path, slots=0)


def test_a_forked_child_is_silent_and_mortal(pool, tmp_path):
    record = Record(tmp_path, ["forks"]).run(pool)
    assert record.beats == []
    assert os.WTERMSIG(record.note(0)["status"]) == signal.SIGTERM


@pytest.mark.slow
def test_200_failing_jobs_of_10_mb_leave_neither_side_larger(pool, tmp_path):
    record = Record(tmp_path, ["holds", "finish", *["holds"] * 200, "finish"])
    record.run(pool, record.jobs[:2])
    before = resident()
    record.run(pool, record.jobs[2:])
    assert [*record.kinds().values()].count("raised") == 201
    assert resident() - before < 20e6
    assert record.note(202)["rss"] - record.note(1)["rss"] < 20e6
    assert record.note(202)["pid"] == record.note(1)["pid"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_nothing_outlives_the_parent(parent, tmp_path, number):
    process = parent("hangs", "hangs_with_child", "hangs_with_lock", "spins", grace=0.1)
    assert until(lambda: len(pids(tmp_path)) == 6)
    process.send_signal(number)
    process.wait(GONE_SECONDS)
    assert are_gone(pids(tmp_path))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_lets_jobs_finish_writing(parent, tmp_path, number, code):
    process = parent("writes", "beats")
    assert [process.stdout.readline() for _ in range(2)] == ["started\n"] * 2
    assert until(lambda: (tmp_path / "0.txt").exists())
    os.killpg(process.pid, number)  # as a terminal does
    said, _ = process.communicate(timeout=60)
    assert process.returncode == code
    assert said.splitlines() == ["stopped asked to stop"] * 2
    assert (tmp_path / "0.txt").read_text().endswith("half, whole")


def test_a_wish_to_stop_that_was_swallowed_is_no_finished_job(parent):
    process = parent("swallows")
    assert process.stdout.readline() == "started\n"
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert said == "stopped asked to stop; returned\n"


def test_a_second_signal_kills(parent, tmp_path):
    process = parent("hangs_with_child")
    assert until(lambda: len(pids(tmp_path)) == 2)
    process.send_signal(signal.SIGINT)
    time.sleep(1)  # a second press, not the echo of the first
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said == "started\nstopped killed by the second signal\n"
    assert are_gone(pids(tmp_path))


def test_the_echo_of_a_signal_does_not_kill(parent, tmp_path):
    process = parent("writes")
    assert until(lambda: (tmp_path / "0.txt").exists())
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert said == "started\nstopped asked to stop\n"


def test_a_job_that_does_not_stop_is_killed_when_its_grace_is_over(parent, tmp_path):
    process = parent("hangs", grace=0.5)
    assert until(lambda: pids(tmp_path))
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert said.endswith("stopped asked to stop, did not within 0.5 s, and was killed\n")


@pytest.mark.parametrize(
    ("word", "how"),
    [
        ("hangs_until_signalled", ""),
        ("exits_when_signalled", "; exited with code 143 before finishing"),
    ],
)
def test_a_worker_that_a_scheduler_signals_stops_its_job_only(parent, tmp_path, word, how):
    process = parent(word)
    assert until(lambda: pids(tmp_path))
    os.kill(pids(tmp_path)[0], signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert said.splitlines() == ["started", f"stopped asked to stop{how}", "started", "None "]


def test_signals_are_the_callers_again_afterwards(pool, tmp_path):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    Record(tmp_path, ["finish"]).run(pool)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
