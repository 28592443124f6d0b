"""Sweeps by other people's engines: submitit's processes, a real Slurm, a real Ray cluster."""

import getpass
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import light_jobs
import pytest
from processes import are_gone, descendants, is_alive, kill, start, until
from small_plant import PLANT, TINY

from asdgan.report import board
from asdgan.results import ledger
from asdgan.results.failures import failures_in
from asdgan.sweep import plan, sweep
from asdgan.sweep.launchers import remote
from asdgan.sweep.launchers import slurm as on_submitit

SMALL = ("model=ganomaly", "sweep.lanes=1", *PLANT, *TINY)
LONG = "epochs=1,400"  # some seconds, of which the first reading is at the start
FOUR = ("seed=0,1,2,3", "epochs=1", "sweep.lanes=1")
DAEMONS = ("munged", "slurmctld", "slurmd")


def rows(folder):
    found, refused = ledger.read_all(folder / "runs", verify=True)
    assert not refused
    return [row for one in found for row in one.rows]


def failed(folder):
    found, refused = failures_in(folder / "runs")
    assert not refused
    return found


def doom(folder, *words):
    """Says how each job of the next plan ends; "" for well."""
    (folder / "sweeps" / "light").mkdir(parents=True, exist_ok=True)
    (folder / "sweeps" / "light" / "deaths.json").write_text(json.dumps(words))


@pytest.fixture
def command(plant, tmp_path):
    """Starts a sweep of real, small trainings in a folder of its own; ends it if it still runs."""
    with ExitStack() as stack:

        def go(*typed):
            begun = start("-m", "asdgan.run", "-m", *typed, *SMALL, f"dataset.root={plant}",
                          folder=tmp_path)  # fmt: skip
            stack.callback(lambda: (kill([begun.pid, *descendants(begun.pid)]), begun.wait()))
            return begun

        yield go


def tasks(command):
    """The processes in which submitit runs its jobs."""
    of = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in descendants(command.pid)}
    return sorted(pid for pid, words in of.items() if b"submitit.core._submit" in words)


def first_readings(folder, count=1):
    runs = folder / "outputs" / "runs"
    return until(lambda: len([*runs.glob("*/epochs_00001.json")]) >= count, 240)


# submitit ---------------------------------------------------------------------------------------


def test_submitit_runs_every_job_and_one_that_fails_takes_no_other_with_it(command, tmp_path):
    begun = command("lr=1e-4,1e30", "seed=0,1", "epochs=1", "hydra/launcher=submitit_local")
    said, _ = begun.communicate()
    assert begun.returncode == 1, said
    assert {(row["seed"], row["settings"]["lr"]) for row in rows(tmp_path / "outputs")} == {
        (0, 1e-4), (1, 1e-4),
    }  # fmt: skip
    assert [one.kind for one in failed(tmp_path / "outputs")] == ["nan", "nan"]
    assert "2 of 4 points done, 2 failed" in said
    assert "fan ganomaly: 1 points failed, nan: losses were not finite" in said
    assert "Traceback" not in said
    assert {path.name for path in tmp_path.iterdir()} == {"outputs"}
    assert not (tmp_path / "outputs" / "logs").exists()  # its litter lies in the sweep's folder


def test_a_killed_job_is_lost_and_one_that_is_preempted_goes_on(command, tmp_path):
    begun = command("seed=0,1", LONG, "sweep.slots=2", "hydra/launcher=submitit_local")
    assert first_readings(tmp_path, 2), begun.communicate()[0]
    doomed, warned = tasks(begun)
    os.kill(doomed, signal.SIGKILL)
    os.kill(warned, signal.SIGUSR2)
    said, _ = begun.communicate()
    assert begun.returncode == 1, said
    (lost,) = failed(tmp_path / "outputs")
    assert lost.kind == "lost"
    assert re.match(r"its process ended without a word; see /.*_log\.err", lost.reason)
    assert sorted(row["epochs"] for row in rows(tmp_path / "outputs")) == [1, 1, 400]
    assert "3 of 4 points done, 1 failed" in said
    logs = (tmp_path / "outputs" / "sweeps").glob("*/logs/job_*/worker_00.log")
    assert any("going on after" in log.read_text() for log in logs)


def test_ctrl_c_stops_submitits_jobs_at_a_checkpoint(command, tmp_path):
    begun = command("seed=0,1,2", LONG, "sweep.slots=1", "hydra/launcher=submitit_local")
    assert first_readings(tmp_path), begun.communicate()[0]
    below = descendants(begun.pid)
    os.killpg(begun.pid, signal.SIGINT)  # as a terminal does
    said, _ = begun.communicate()
    assert begun.returncode == 130, said
    assert re.search("the same command goes on from there: .* hydra/launcher=submitit_local", said)
    assert are_gone(below)
    assert len([*(tmp_path / "outputs" / "runs").glob("*/checkpoint_*")]) == 1
    assert not failed(tmp_path / "outputs")


def test_a_launcher_that_is_not_installed_is_named_with_its_cure(monkeypatch):
    monkeypatch.setattr(remote, "_is_there", lambda module: False)
    for launcher, extra in (("ray", "ray"), ("submitit_slurm", "slurm")):
        told = rf"{launcher} needs a package .*: pip install 'asdgan\[{extra}\]'"
        with pytest.raises(remote.BadInput, match=told):
            remote.refuse_missing(["batch=16", f"hydra/launcher={launcher}"])
    remote.refuse_missing(["hydra/launcher=local"])


def test_slurms_refusal_is_one_sentence(command, monkeypatch):
    monkeypatch.setenv("PATH", "nowhere")
    begun = command("epochs=1", "hydra/launcher=submitit_slurm")
    said, _ = begun.communicate()
    assert begun.returncode == 2
    assert 'submitit takes no jobs: RuntimeError: Could not detect "srun"' in said
    assert "Traceback" not in said


def test_no_more_jobs_are_queued_than_slurm_takes(monkeypatch):
    sent = []
    monkeypatch.setattr(on_submitit, "TICK_SECONDS", 0)
    monkeypatch.setattr(on_submitit, "_submitted", lambda _, jobs: sent.append(len(jobs)) or jobs)
    monkeypatch.setattr(on_submitit, "_outcome", lambda *_: (None, False))
    monkeypatch.setattr(on_submitit.Queue, "over", lambda _, jobs: jobs[:700])
    jobs = [(Path("plan.json"), number) for number in range(2500)]
    on_submitit.launch(SimpleNamespace(_EXECUTOR="slurm"), jobs, 1)
    assert sum(sent) == 2500
    assert max(sent) == 1000


def test_a_job_has_the_threads_that_it_was_given_and_else_one(monkeypatch):
    for slurms, asked, threads in (("", "", 1), ("4", "", 4), ("", "2", 2), ("4", "16", 4)):
        monkeypatch.setenv("SLURM_CPUS_PER_TASK", slurms)
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
        assert remote.threads() == threads


def test_a_plan_means_the_same_in_another_folder(tmp_path, monkeypatch):
    light_jobs.lighten(monkeypatch.setattr)
    light_jobs.recordings(tmp_path / "plant")
    monkeypatch.chdir(tmp_path)
    kept = []

    def look(jobs):
        kept.extend(plan.job_of(*job).stack.config.outputs for job in jobs)

    typed = [*light_jobs.line(Path("plant/.."), "epochs=1")]
    typed[typed.index("outputs=plant/..")] = "outputs=here"
    assert sweep.sweep(typed, look, slots=1, on_gpu=False, show=board.show_sweep) == 1
    assert kept == [str(tmp_path / "here")]


# Slurm ------------------------------------------------------------------------------------------


@pytest.fixture
def slurm(tmp_path_factory, monkeypatch):
    """A real Slurm of one node, as small as it gets; without accounts."""
    if missing := [name for name in (*DAEMONS, "sbatch") if not shutil.which(name)]:
        pytest.skip(f"no {', '.join(missing)} here (Debian: apt-get install slurm-wlm munge)")
    if os.getuid():
        pytest.skip("slurmd starts jobs for root only; these tests run as somebody else")
    folder = tmp_path_factory.mktemp("slurm")
    folder.parent.chmod(0o755)
    host = socket.gethostname().partition(".")[0]
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "key").write_bytes(os.urandom(1024))
    (folder / "key").chmod(0o400)
    (folder / "slurm.conf").write_text(f"""
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={free_port()}
SlurmdPort={free_port()}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser={getpass.getuser()}
AuthInfo=socket={folder}/socket
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES State=UP
""")
    monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
    munge = [f"--{name}-file={folder}/{name}" for name in ("key", "seed")]
    munge += [f"--pid-file={folder}/munged.pid", f"--log-file={folder}/munged.log"]
    try:
        run("munged", "--force", f"--socket={folder}/socket", *munge)
        run("slurmctld", "-c")
        run("slurmd", "-c")
        if not until(lambda: "idle" in run("sinfo", "--noheader", check=False), 30):
            pytest.skip(
                "Slurm does not start here: " + (folder / "slurmctld.log").read_text()[-500:]
            )
        yield folder
        run("scancel", f"--user={getpass.getuser()}", check=False)
    finally:
        pids = [int(path.read_text()) for path in folder.glob("*.pid")]
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
        assert are_gone(pids)


def run(*words, check=True):
    return subprocess.run(words, capture_output=True, text=True, check=check).stdout


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.mark.slow
def test_slurm_jobs_end_well_killed_or_out_of_time_and_the_sweep_says_which(
    command, tmp_path, slurm
):
    """Without accounts nobody says that a job was killed: it is gone from the queue."""
    timely = "hydra.launcher.timeout_min=10"  # so little that a warning means time is up
    begun = command("seed=0,1,2", LONG, "hydra/launcher=submitit_slurm", timely)
    logs = tmp_path / "outputs" / "sweeps"
    assert first_readings(tmp_path, 3), begun.communicate()[0]
    (job,) = {name.split("_")[0] for name in run("squeue", "-hro%i").split()}
    run("scancel", "--signal=KILL", f"{job}_1")
    run("scancel", "--signal=USR2", f"{job}_2")
    said, _ = begun.communicate()
    assert begun.returncode == 1, said
    assert [row["seed"] for row in rows(tmp_path / "outputs") if row["epochs"] == 400] == [0]
    reasons = {one.settings["seed"]: one.reason for one in failed(tmp_path / "outputs")}
    assert reasons.keys() == {1, 2}
    assert reasons[1].startswith("it left Slurm's queue without a word")
    assert "timed-out too many times" in reasons[2]
    assert "goes on from its checkpoint" in reasons[2]
    assert "4 of 6 points done, 2 failed" in said
    assert [*logs.glob("*/logs/submitit/*")]
    assert len([*(tmp_path / "outputs" / "runs").glob("*/checkpoint_*")]) >= 1
    assert not run("squeue", "--noheader")


# Ray --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster():
    """A Ray cluster whose head takes no jobs and whose node claims to have a GPU."""
    pytest.importorskip("ray", reason="ray is not installed")
    from ray._private import ray_constants
    from ray.cluster_utils import Cluster

    before = descendants(os.getpid())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", False)  # nobody beyond 127.0.0.1
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "num_gpus": 0})
        made.add_node(num_cpus=2, num_gpus=1)
        below = [one for one in descendants(os.getpid()) if one not in before]
        yield made
        made.shutdown()
    assert are_gone(below)


@pytest.fixture
def by_ray(cluster, tmp_path, monkeypatch):
    """Sweeps of light jobs on the cluster; gives the exit code."""
    from hydra_plugins.asdgan_sweep import RayLauncher

    light_jobs.lighten(monkeypatch.setattr)
    light_jobs.recordings(tmp_path / "plant")

    def go(*typed, **asked):
        launcher = RayLauncher(
            **{"address": cluster.address, "gpus": 0.5, "cpus": 0.5, "retries": 3, **asked}
        )
        return light_jobs.answer(tmp_path, *typed, by=launcher)

    return go


def test_ray_runs_every_job_and_says_how_one_died(by_ray, tmp_path, capsys):
    doom(tmp_path, "raises", "", "sigkill", "gpu_memory")
    assert by_ray(*FOUR) == 1
    assert [row["seed"] for row in rows(tmp_path)] == [1]
    reasons = {one.settings["seed"]: (one.kind, one.reason) for one in failed(tmp_path)}
    assert reasons[0][0] == "raised"
    assert reasons[0][1].startswith("ValueError: no such fan (light_jobs.py:")
    assert reasons[2] == ("killed", "killed by SIGKILL; out of memory is a usual cause")
    assert reasons[3][0] == "memory"
    said = capsys.readouterr()
    assert "1 of 4 points done, 3 failed" in said.out
    heard = (said.out + said.err).replace("array", "").splitlines()
    assert not [line for line in heard if "ray" in line]


def notes(folder):
    """What jobs that wait for a word have said of themselves."""
    found = (folder / "sweeps" / "light").glob("[0-9].json")
    return [json.loads(path.read_text()) for path in found]


def test_a_lost_nodes_jobs_are_done_by_the_others(cluster, by_ray, tmp_path, caplog):
    """Two jobs share the GPU of each node; one node goes while all four are at hand."""
    doom(tmp_path, *["waits_for_a_word"] * 4)
    second = cluster.add_node(num_cpus=2, num_gpus=1)

    def lose():
        until(lambda: len(notes(tmp_path)) == 4)
        first_lives.extend(notes(tmp_path))
        cluster.remove_node(second, allow_graceful=False)
        until(lambda: sum(map(is_alive, pids(first_lives))) == 2)
        survivors.extend(filter(is_alive, pids(first_lives)))
        (tmp_path / "sweeps" / "light" / "go").touch()

    first_lives, survivors = [], []
    thread = threading.Thread(target=lose)
    thread.start()
    assert by_ray(*FOUR) == 0
    thread.join()
    assert {one["gpu"] for one in first_lives} == {"0"}
    assert len(survivors) == 2
    assert sorted(row["seed"] for row in rows(tmp_path)) == [0, 1, 2, 3]
    assert caplog.text.count("is begun again: its process or machine was lost") == 2
    assert are_gone(pids([*first_lives, *notes(tmp_path)]))


def pids(told):
    return [one["pid"] for one in told]


def test_a_job_whose_machines_are_lost_again_and_again_is_given_up(by_ray, tmp_path):
    """Its process takes Ray's down with it, as a machine that dies would."""
    doom(tmp_path, "takes_its_parent_along")
    assert by_ray("epochs=1", retries=1) == 1
    (lost,) = failed(tmp_path)
    assert lost.kind == "lost"
    assert lost.reason.startswith("its process or machine was lost: WorkerCrashedError")
    begun = (tmp_path / "sweeps" / "light" / "lives.txt").read_text()
    assert begun == "begun\n" * 2


def test_what_ray_cannot_do_is_refused_in_a_sentence(by_ray, tmp_path, capsys):
    closed = f"127.0.0.1:{free_port()}"
    for asked, told in (
        ({"address": closed}, f"address={closed}: no Ray cluster answers there"),
        ({"address": "ray://head:10001"}, "HOST:PORT of the head is expected"),
        ({"gpus": 1.5}, "gpus=1.5: a fraction or a whole number is expected"),
        ({"gpus": 8}, "no machine of the Ray cluster has that for a job"),
        ({"cpus": -1}, "cpus=-1: a number of at least 0 is expected"),
        ({"retries": -1}, "retries=-1: a number of at least 0 is expected"),
    ):
        assert by_ray(*FOUR, **asked) == 2
        assert told in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_ctrl_c_stops_rays_jobs_at_a_checkpoint_and_ends_what_was_started(command, tmp_path):
    pytest.importorskip("ray", reason="ray is not installed")
    begun = command("seed=0,1", LONG, "hydra/launcher=ray", "hydra.launcher.address=local")
    assert first_readings(tmp_path), begun.communicate()[0]
    below = descendants(begun.pid)
    assert {address for pid in [begun.pid, *below] for address in listening(pid)} == {"127.0.0.1"}
    os.killpg(begun.pid, signal.SIGINT)  # as a terminal does
    said, _ = begun.communicate()
    assert begun.returncode == 130, said
    assert "the same command goes on from there" in said
    assert "Traceback" not in said
    assert are_gone(below)
    assert [*(tmp_path / "outputs" / "runs").glob("*/checkpoint_*")]
    assert not failed(tmp_path / "outputs")


def listening(pid):
    """The addresses on which a process listens."""
    sockets = {
        os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir() if path.is_symlink()
    }
    for version, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path(f"/proc/net/{version}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A" and f"socket:[{inode}]" in sockets:
                words = bytes.fromhex(local.split(":")[0])
                packed = b"".join(words[i : i + 4][::-1] for i in range(0, len(words), 4))
                yield socket.inet_ntop(family, packed).removeprefix("::ffff:")
