"""One point as a user would write it: wavs to AUC, in one plain Lightning process.

    python benchmarks/plain_point.py PLANT --machine fan --epochs 3 --batch 16 --lr 1e-4 --seed 0

GANomaly in its audio reading, with the modules and the step of benchmarks/plain.py; log-mel frames
by torchaudio, windows in memory, a DataLoader, clip scores by L1, AUC of each id by scikit-learn.
What benchmarks/sweep.py compares a sweep with.
"""

import argparse
import logging
import re
import warnings
from collections import defaultdict
from pathlib import Path

import pytorch_lightning as pl
import soundfile
import torch
from plain import LENGTH, MELS, Module
from sklearn.metrics import roc_auc_score

from asdgan.data.wav import import_torchaudio


def windows_of(path, mel):
    samples, _ = soundfile.read(path, dtype="float32")
    frames = 10 * torch.log10(mel(torch.from_numpy(samples)).T + 2.220446049250313e-16)
    return frames.unfold(0, LENGTH, 1).transpose(1, 2).reshape(-1, LENGTH * MELS)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("plant", type=Path)
    parser.add_argument("--machine", default="fan")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    pl.seed_everything(chosen.seed)
    mel = import_torchaudio().transforms.MelSpectrogram(
        16000, n_fft=1024, hop_length=512, n_mels=MELS, norm="slaney", mel_scale="slaney"
    )
    (folder,) = chosen.plant.rglob(chosen.machine)
    train = torch.cat([windows_of(path, mel) for path in sorted(folder.glob("train/*.wav"))])
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(train), batch_size=chosen.batch, shuffle=True
    )
    module = Module()
    for adam in (module.nets.adam_g, module.nets.adam_d):
        adam.param_groups[0]["lr"] = chosen.lr
    trainer = pl.Trainer(
        max_epochs=chosen.epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, loader)
    nets = module.nets.eval()
    labels, scores = defaultdict(list), defaultdict(list)
    with torch.no_grad():
        for path in sorted(folder.glob("test/*.wav")):
            x = windows_of(path, mel)
            label, section = re.match(r"(normal|anomaly)_(id_\d+)", path.name).groups()
            labels[section].append(label == "anomaly")
            scores[section].append(float((nets.decoder(nets.encoder(x)) - x).abs().mean()))
    areas = [roc_auc_score(labels[section], scores[section]) for section in labels]
    print(f"AUC {sum(areas) / len(areas):.4f}")


if __name__ == "__main__":
    main()
