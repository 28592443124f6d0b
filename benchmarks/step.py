"""One optimiser step of GANomaly: asdgan's, alone and as a stack, against what a user would write.

    python benchmarks/step.py --lanes 64 --batch 16,128,512 --threads 1 --rounds 5

Four programs take turns in one process, on equal windows, and the median of their CPU time per
lane-step counts (thread time, so that a busy neighbour does not):

- plain: PyTorch modules, the repository's order of calls, four passes through D, two default
  Adams, minibatches by indexing a materialised array (kinder than a DataLoader);
- lightning: the same nets as an ordinary LightningModule, automatic logging, a DataLoader;
- one lane: asdgan's detector for a single run, windows gathered and noise drawn as in training;
- lanes: the same detector as a stack.

--precision sets the matrix products of asdgan's side; the plain loop is timed at both, so that
its own gain stands beside it. --compile compiles asdgan's step; the first call is timed apart.
Prints one JSON object.
"""

import argparse
import json
import os
import statistics
import time
import warnings

import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F

from asdgan import settings
from asdgan.features import Frames
from asdgan.lanes import Noise
from asdgan.windows import WindowData, Windows

MELS, LENGTH = 128, 5


def perceptron(inputs, outputs, *, norm):
    layers, width = [], 128
    for i in (inputs, width, width):
        layers += [nn.Linear(i, width), nn.BatchNorm1d(width, 1e-3, 0.01), nn.ReLU()]
    layers.append(nn.Linear(width, outputs))
    return nn.Sequential(
        *layers, *([nn.BatchNorm1d(outputs, 1e-3, 0.01), nn.ReLU()] if norm else [])
    )


class Plain(nn.Module):
    """The nets, and one step in the published order."""

    def __init__(self):
        super().__init__()
        self.encoder = perceptron(640, 8, norm=True)
        self.decoder = perceptron(8, 640, norm=False)
        self.reencoder = perceptron(640, 8, norm=True)
        self.d = perceptron(640, 1, norm=False)
        generator = [*self.encoder.parameters(), *self.decoder.parameters()]
        self.adam_g = torch.optim.Adam(
            [*generator, *self.reencoder.parameters()], 2e-4, (0.5, 0.999)
        )
        self.adam_d = torch.optim.Adam(self.d.parameters(), 2e-4, (0.5, 0.999))
        self.real, self.fake = torch.ones(1, 1), torch.zeros(1, 1)

    def losses(self, x):
        z = self.encoder(x)
        fake = self.decoder(z)
        z_fake = self.reencoder(fake)
        real, unreal = self.real.expand(len(x), 1), self.fake.expand(len(x), 1)
        bce = F.binary_cross_entropy_with_logits
        on_real, on_fake = self.d(x), self.d(fake.detach())
        self.d(x)  # the repository looks at x's features again inside the generator's loss
        loss_g = bce(self.d(fake), real) + 50 * F.l1_loss(fake, x) + F.mse_loss(z_fake, z)
        return loss_g, (bce(on_real, real) + bce(on_fake, unreal)) / 2

    def step(self, x):
        loss_g, loss_d = self.losses(x)
        self.adam_g.zero_grad()
        loss_g.backward(retain_graph=True)
        self.adam_g.step()
        self.adam_d.zero_grad()
        loss_d.backward()
        self.adam_d.step()
        if loss_d.item() < 1e-5:
            self.d.apply(
                lambda m: m.reset_parameters() if hasattr(m, "reset_parameters") else None
            )


class Module(pl.LightningModule):
    """The same as an ordinary LightningModule."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.nets = Plain()

    def training_step(self, batch, _):
        adam_g, adam_d = self.optimizers()
        loss_g, loss_d = self.nets.losses(batch[0])
        adam_g.zero_grad()
        self.manual_backward(loss_g, retain_graph=True)
        adam_g.step()
        adam_d.zero_grad()
        self.manual_backward(loss_d)
        adam_d.step()
        self.log_dict({"train/loss_g": loss_g, "train/loss_d": loss_d}, prog_bar=False)

    def configure_optimizers(self):
        return [self.nets.adam_g, self.nets.adam_d]


def ours(lanes, compiled, batch):
    config = settings.compose(["model=ganomaly", "dataset=folder", "dataset.root=unused"])
    if lanes:
        config.seed = [0] * lanes
    detector = settings.build(config)
    detector.configure_optimizers()
    if compiled:
        detector.compile_steps(batch)
    return detector


def turn_of_ours(detector, data, steps):
    noise = Noise(detector.seeds, uniforms=0, normals=0)
    done, epoch = 0, 0
    began = time.thread_time()
    while done < steps:
        for block in data.blocks(epoch):
            for batch in block:
                if done == steps:
                    break
                draw = noise.draw(batch.step, batch.windows.shape[-2], like=batch.windows)
                detector.learn(batch, draw)
                done += 1
            detector.between_blocks()
        epoch += 1
    return (time.thread_time() - began) / steps


def turn_of_plain(plain, x, batch, steps):
    order = torch.randperm(len(x))
    began = time.thread_time()
    for i in range(steps):
        start = (i * batch) % (len(x) - batch)
        plain.step(x[order[start : start + batch]])
    return (time.thread_time() - began) / steps


def turn_of_lightning(module, loader, steps):
    def fit(count):
        trainer = pl.Trainer(
            max_steps=2 * count,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        began = time.thread_time()
        trainer.fit(module, loader)
        return time.thread_time() - began

    return (fit(3 * steps) - fit(steps)) / (2 * steps)  # start-up taken out


def measure(batch, chosen):
    torch.manual_seed(0)
    frames = torch.randn(64 * 313, MELS)
    starts = torch.arange(65) * 313
    clips = [
        type("Clip", (), dict(section="00", domain=None, attributes=(), path=i)) for i in range(64)
    ]
    windows = Windows(Frames(frames, starts), clips, length=LENGTH, stride=1)
    everything = torch.arange(len(windows))
    x = windows.gather(everything)
    data = WindowData(windows, train=everything, held=everything[:0], seeds=[0], batch=batch)
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(x), batch_size=batch, shuffle=True
    )
    plain, module = Plain(), Module()
    one, many = ours(0, chosen.compile, batch), ours(chosen.lanes, chosen.compile, batch)
    few = max(2, chosen.steps // max(1, batch // 64))
    precision = torch.set_float32_matmul_precision

    def lanes_turn(steps):
        return turn_of_ours(many, data, steps) / chosen.lanes

    precision(chosen.precision)
    began = time.perf_counter()
    turn_of_ours(one, data, 2)
    lanes_turn(1)
    first = time.perf_counter() - began
    turns = {name: [] for name in ("plain", "plain_medium", "lightning", "one_lane", "lanes")}
    for _ in range(chosen.rounds):
        precision("highest")
        turns["plain"].append(turn_of_plain(plain, x, batch, few))
        turns["lightning"].append(turn_of_lightning(module, loader, max(2, few // 2)))
        precision("medium")
        turns["plain_medium"].append(turn_of_plain(plain, x, batch, few))
        precision(chosen.precision)
        turns["one_lane"].append(turn_of_ours(one, data, few))
        turns["lanes"].append(lanes_turn(max(2, few // 16)))
    ms = {name: 1e3 * statistics.median(values) for name, values in turns.items()}
    return {
        "batch": batch,
        "ms_per_lane_step": {name: round(value, 3) for name, value in ms.items()},
        "lanes_over_plain": round(ms["plain"] / ms["lanes"], 2),
        "lanes_over_lightning": round(ms["lightning"] / ms["lanes"], 2),
        "one_lane_over_plain": round(ms["plain"] / ms["one_lane"], 2),
        "plain_medium_over_plain": round(ms["plain"] / ms["plain_medium"], 2),
        "first_steps_s": round(first, 1),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lanes", type=int, default=64)
    parser.add_argument("--batch", default="16,128,512")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=60, help="plain steps a turn at batch 64")
    parser.add_argument("--precision", choices=("highest", "medium"), default="highest")
    parser.add_argument("--compile", action="store_true")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    warnings.filterwarnings("ignore")
    import logging

    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    said = {
        "lanes": chosen.lanes,
        "threads": chosen.threads,
        "precision": chosen.precision,
        "compiled": chosen.compile,
        "torch": torch.__version__,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "onednn_max_isa": os.environ.get("ONEDNN_MAX_CPU_ISA"),
        "rows": [measure(int(batch), chosen) for batch in chosen.batch.split(",")],
    }
    print(json.dumps(said, indent=1))


if __name__ == "__main__":
    main()
