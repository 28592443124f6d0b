"""Folders of short recordings of noise, and a model's shrunk settings to train on them."""

import numpy as np
import soundfile
from small_models import compose

TWO_MACHINES = tuple(
    f"{name}_id_{section:02d}_00000000"
    for name in ("train/normal", "test/normal", "test/anomaly")
    for section in (0, 1)
)
MORE = tuple(  # with what `lof` compares a clip with
    f"train/normal_id_{section:02d}_{number:08d}" for section in (0, 1) for number in range(1, 5)
)
WAVS = ("train/a", "train/b", "train/c", "test/normal_1", "test/normal_2", "test/anomaly_1")


def plant(folder, rate=16000, names=WAVS, shortest=0.4):
    """A folder of recordings of different lengths, in seconds."""
    generator = np.random.default_rng(0)
    for number, name in enumerate(names):
        path = folder / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        samples = generator.normal(0, 0.1, int(rate * (shortest + 0.1 * (number % 6))))
        soundfile.write(path, samples, rate, subtype="PCM_16")
    return folder


def settings_of(name, root, *overrides):
    """A model's real settings, shrunk, on a folder of recordings."""
    config = compose(name, "epochs=1", "batch=32", "trainer.compile=false", *overrides)
    config.dataset.root, config.outputs = str(root), str(root.parent)
    config.logger = None
    return config
