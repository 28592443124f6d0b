"""Does kill -9 at any instant leave a sweep that the same command finishes? Kills many to see.

    python checks/killed_sweeps.py [--kills 100] [--jobs 150] [--slots 2]

A sweep of light jobs (tests/light_jobs.py) is killed at a random instant: one half of the times
its process alone, the other half all its processes in random order. Then the same sweep begins
again, until it is done; then another one, until there were as many kills as asked for. Its plan,
lock, watch, board, launcher, workers, results and failures are the real ones; a job in each plan
raises as long as the sweep is killed. Left out, because a start would take ten times as long:
Hydra's own start and the reading of the command line (each sweep is a fork of this process, which
has done both), models on the meta device, and training, whose checkpoints
tests/training/test_checkpoint.py and tests/sweep/test_killed_sweeps.py cut.

Exits with 1 unless no finished result was lost or changed by a byte, nothing half-written could
be read, each kill made at most one job per slot run again, nothing of a killed sweep was alive
5 s later, and each sweep that was not killed ended as it should.

Last figures, `--kills 1000 --jobs 300`, two cores shared with much else, 1,280 s: 1,000 kills of
26 sweeps, 972 beside live workers; 15,600 results, none lost or changed; 1,185 jobs ran again
(2,000 allowed); 683 failures, all made good by a later start; 441 half-written files, none under a
result's name; the last worker was gone 0.13 s after its parent at the latest.
"""

import argparse
import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import light_jobs
from processes import GONE_SECONDS, descendants, is_alive, kill

from asdgan._system.files import read_json, sha256_of
from asdgan.errors import Damaged
from asdgan.results import ledger
from asdgan.results.failures import failures_in

DOOMED = 3  # of the jobs of each plan, the one that raises


def begin(folder, typed):
    """Starts the sweep in a process of its own, in a group of its own; gives its pid."""
    if pid := os.fork():
        return pid
    code = 70
    try:
        os.setsid()
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        code = light_jobs.answer(folder, *typed)
    finally:
        os._exit(code)


def ended(pid):
    """The exit code of a sweep, or None while it runs."""
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def await_a_job(pid, begun):
    """Waits until another job has begun, or the sweep is over; gives its exit code then."""
    before = begun.stat().st_size if begun.exists() else 0
    while (code := ended(pid)) is None and not (begun.exists() and begun.stat().st_size > before):
        time.sleep(0.005)
    return code


def seconds_to_end(pids):
    """Until the last of the processes is gone; infinite where one is not."""
    began = time.monotonic()
    while any(map(is_alive, pids)):
        if time.monotonic() > began + GONE_SECONDS:
            return float("inf")
        time.sleep(0.005)
    return time.monotonic() - began


def look(folder, known):
    """Adds new results, each with the digests of its files; gives what is lost, changed or cut."""
    complaints = []
    for path in sorted((folder / "runs").rglob("epochs_*.json")):
        try:
            if path not in known:
                beside = {path.parent / name: sha for name, sha in ledger.read(path).files.items()}
                known[path] = {path: sha256_of(path), **beside}
        except Damaged as error:
            complaints.append(str(error))
    for files in known.values():
        for path, digest in files.items():
            if not path.exists() or sha256_of(path) != digest:
                complaints.append(f"{path} was {'changed' if path.exists() else 'lost'}")
    complaints += [f"{path}: {reason}" for path, reason in failures_in(folder / "runs")[1]]
    try:
        read_json(folder / "sweeps" / "light" / "plan.json")
    except (Damaged, FileNotFoundError) as error:
        complaints += [str(error)] if isinstance(error, Damaged) or known else []
    return complaints


def sweep(folder, jobs, slots, most):
    """One sweep, killed again and again until it is done, `most` times or more seldom."""
    light_jobs.recordings(folder / "plant")
    typed = [
        f"seed=range(0,{2 * jobs})", "epochs=1,2", "sweep.lanes=2", f"sweep.slots={slots}",
    ]  # fmt: skip
    light_jobs.launcher(folder, *typed)  # for all that begin: imports, and the command line read
    place = folder / "sweeps" / "light"
    place.mkdir(parents=True)
    words = ["raises" if number == DOOMED else "" for number in range(jobs)]
    (place / "deaths.json").write_text(json.dumps(words))
    known, complaints, seen = {}, [], set()
    kills, amid, slowest, code = 0, 0, 0.0, None
    while code != 0:
        if kills >= most or code == 1:
            (place / "deaths.json").unlink(missing_ok=True)
        pid, code = begin(folder, typed), None
        if kills >= most:
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        elif kills % 4:  # the fourth part falls while processes start
            code = await_a_job(pid, place / "begun.txt")
        if code is None:
            time.sleep(random.uniform(0, 1))
            code = ended(pid)
        if code is None:
            workers = descendants(pid)
            kill([pid, *(workers if kills % 8 < 4 else [])])
            os.waitpid(pid, 0)
            slowest = max(slowest, seconds_to_end(workers))
            kills += 1
            amid += len(workers) > 0
        seen |= set((folder / "runs").rglob(".*.part"))
        complaints += look(folder, known)
        if code not in (None, 0, 1):
            complaints.append(f"a sweep ended by itself with exit code {code}")
            break
    begun = (place / "begun.txt").read_text().splitlines()
    again = len(begun) - len(set(begun))
    if len(known) != 2 * jobs:
        complaints.append(f"{len(known)} results of {2 * jobs}")
    if again > kills * slots:
        complaints.append(f"{again} jobs ran again after {kills} kills of {slots} slots")
    if slowest > GONE_SECONDS:
        complaints.append(f"a worker lived longer than {GONE_SECONDS} s after its parent")
    return {
        "kills": kills,
        "amid": amid,
        "known": len(known),
        "again": again,
        "failures": len(failures_in(folder / "runs")[0]),
        "halves": len(seen),
        "slowest": slowest,
        "complaints": complaints,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100, help="in all, one sweep after another")
    parser.add_argument("--jobs", type=int, default=150, help="of a sweep")
    parser.add_argument("--slots", type=int, default=2)
    chosen = parser.parse_args()
    light_jobs.lighten()
    began, found = time.monotonic(), []
    while (kills := sum(one["kills"] for one in found)) < chosen.kills:
        if any(one["complaints"] for one in found):
            break
        with tempfile.TemporaryDirectory() as named:
            found.append(sweep(Path(named), chosen.jobs, chosen.slots, chosen.kills - kills))
        print(f"sweep {len(found)}: {kills + found[-1]['kills']} kills", file=sys.stderr)
    total = {key: sum(one[key] for one in found) for key in found[0] if key != "complaints"}
    complaints = [one for each in found for one in each["complaints"]]
    print(
        json.dumps(
            {
                "sweeps": len(found),
                "kills": total["kills"],
                "of which with live workers": total["amid"],
                "jobs": chosen.jobs * len(found),
                "results": total["known"],
                "run again": total["again"],
                "allowed": total["kills"] * chosen.slots,
                "failures on record, all of them made good": total["failures"],
                "half-written files, invisible": total["halves"],
                "seconds until the last worker was gone, at worst": round(
                    max(one["slowest"] for one in found), 3
                ),
                "seconds in all": round(time.monotonic() - began),
                "complaints": complaints,
            },
            indent=1,
        )
    )
    return 1 if complaints else 0


if __name__ == "__main__":
    raise SystemExit(main())
