"""Every detector at its published defaults on the demo plant's fan: windows a second, and memory.

    python benchmarks/detectors.py --threads 1 --rounds 3 --seconds 4
    python benchmarks/detectors.py --models wsp_nfcdee nfcdee idnn

Models are found by their YAML; ensembles train nothing themselves and are left out. Each detector
is a process of its own, and so is dcase_ae, which all others are compared with: for some seconds
the one trains, then the other, then both score, round after round, and nobody else of ours works
meanwhile. Rates are medians over the rounds, ratios are medians of each round's ratio.

- training: minibatches of the published size, gathered, scaled and learnt from as in a run,
  without what a trainer adds between them; the first minibatch is not counted;
- scoring: some test clips (`--clips`) as a run scores them, by what it learnt in those seconds;
- memory: the peak of the process, imports (of dcase_ae too) and the clips' frames included.

With --threads auto each has the threads that a run of its own would take. A stage that a model
builds on is not trained first: its fresh weights take as long to use.

Prints a line of JSON for the whole, and one for each model as soon as it is measured.
"""

import argparse
import copy
import json
import multiprocessing
import statistics
import sys
import time
from pathlib import Path

REFERENCE = "dcase_ae"
PLANT = ("dataset=demo", "machine=fan", "trainer.progress=false")


class Measured:
    """One detector, ready to train and to score."""

    def __init__(self, name, asked):
        import torch

        from asdgan._system.parallel import usable_cores
        from asdgan.config import compose
        from asdgan.data.windows import WindowData, held_out
        from asdgan.training import machine_data, train

        self.config = compose.compose([f"model={name}", *PLANT, f"outputs={asked.outputs}"])
        root = machine_data.root_of(self.config, machine_data.uncounted)
        heard = machine_data.listen(self.config, root, "fan", machine_data.uncounted)
        self.threads = train.threads_of(self.config, 1, usable_cores())
        if asked.threads != "auto":
            self.threads = int(asked.threads)
        torch.set_num_threads(self.threads)
        torch.manual_seed(0)
        self.detector = compose.build(self.config)
        self.detector.prepare(heard.train, heard.test.sections)
        for stage, of_stage in compose.stages_of(self.config).items():
            fresh = compose.build(of_stage)
            fresh.prepare(heard.train)
            self.detector.take_stage(stage, fresh.state_dict())
        numbers, held = held_out(
            heard.train,
            split=self.config.windows.val_split,
            fraction=self.config.windows.val_fraction,
            seed=self.config.windows.val_seed,
        )
        self.detector.fit_scaling(heard.train, numbers)
        self.detector.configure_optimizers()
        self.data = WindowData(
            heard.train,
            train=numbers,
            held=held,
            seeds=self.detector.seeds,
            batch=self.config.batch,
            drawing=train.drawing_of(self.config),
            block=1,
        )
        self.train = heard.train
        self.scored = copy.copy(heard.test)
        self.scored.bounds = heard.test.bounds[: asked.clips + 1]
        self.scored.sections = heard.test.sections[: asked.clips]
        self._minibatches = self._endless()
        self.detector.training_step(next(self._minibatches)[0], 0)

    def _endless(self):
        epoch = 0
        while True:
            for block in self.data.blocks(epoch):
                yield block, min(self.config.batch, block._orders.shape[1])
            epoch += 1

    def training(self, seconds):
        """Windows learnt from in a second."""
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            block, windows = next(self._minibatches)
            self.detector.training_step(block, 0)
            count += windows
        return count / (time.perf_counter() - began)

    def scoring(self, seconds):
        """Windows scored in a second."""
        self.detector.fit(self.train)
        began, count = time.perf_counter(), 0
        while not count or time.perf_counter() - began < seconds:
            self.detector.score_clips(self.scored)
            count += int(self.scored.bounds[-1])
        return count / (time.perf_counter() - began)

    def facts(self, _):
        """What it is, and the peak of its memory so far in MB."""
        status = Path("/proc/self/status").read_text()
        peak = int(status.partition("VmHWM:")[2].split()[0])  # kB; of this program alone
        return {
            "threads": self.threads,
            "batch": self.config.batch,
            "window": [self.config.windows.frames, self.config.features.mels],
            "parameters": sum(p.numel() for p in self.detector.parameters()),
            "windows_per_clip": int(self.scored.bounds[1]),
            "peak_mb": round(peak / 1024),
        }


def serve(name, asked, pipe):
    """A process: answers what it is asked, until it is told to end."""
    from asdgan.training import train

    train.quiet_libraries()
    measured = Measured(name, asked)
    pipe.send("ready")
    while (question := pipe.recv()) is not None:
        what, seconds = question
        pipe.send(getattr(measured, what)(seconds))


class Process:
    """A detector that is measured elsewhere."""

    def __init__(self, name, asked):
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(name, asked, theirs), daemon=True)
        self._process.start()
        theirs.close()
        self._pipe.recv()

    def ask(self, what, seconds=0.0):
        self._pipe.send((what, seconds))
        return self._pipe.recv()

    def end(self):
        self._pipe.send(None)
        self._process.join()


def measure(name, reference, asked):
    """A model's line."""
    one = Process(name, asked)
    said = {"model": name}
    for what in ("training", "scoring"):
        rates, ratios = [], []
        for _ in range(asked.rounds):
            base = reference.ask(what, asked.seconds)
            rates.append(one.ask(what, asked.seconds))
            ratios.append(rates[-1] / base)
        said[what] = {
            "windows_per_second": round(statistics.median(rates)),
            f"times_{REFERENCE}": float(f"{statistics.median(ratios):.3g}"),
        }
    said |= one.ask("facts")
    one.end()
    return said


def found():
    """Detectors by their YAML, less those that put others together."""
    from omegaconf import OmegaConf

    from asdgan.config import compose

    paths = sorted((compose.CONF / "model").glob("*.yaml"))
    return [path.stem for path in paths if not compose.is_ensemble(OmegaConf.load(path))]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", help="all that have a YAML")
    parser.add_argument("--threads", default="1", help="a number, or auto")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each turn, at least")
    parser.add_argument("--clips", type=int, default=6, help="test clips that are scored")
    parser.add_argument("--outputs", default="outputs", help="where the demo plant is, or is made")
    asked = parser.parse_args()
    asked.outputs = str(Path(asked.outputs).absolute())
    models = found()
    if unknown := set(asked.models or ()) - set(models):
        sys.exit(
            f"no detector is called {', '.join(sorted(unknown))}; there are {' '.join(models)}"
        )
    reference = Process(REFERENCE, asked)
    said = {key: value for key, value in vars(asked).items() if key not in ("models", "outputs")}
    print(json.dumps({**said, REFERENCE: reference.ask("facts")}), flush=True)
    for name in asked.models or models:
        print(json.dumps(measure(name, reference, asked)), flush=True)
    reference.end()


if __name__ == "__main__":
    main()
