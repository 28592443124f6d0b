"""The smallest plant on which a sweep is a sweep, networks to match, and clips in name only."""

PLANT = (
    "machine=fan", "dataset.seconds=2", "dataset.ids=1", "dataset.train_clips=2",
    "dataset.test_clips=2",
)  # fmt: skip
TINY = ("features.mels=16", "model.hidden_width=16", "batch=32", "trainer.compile=false")


def make(root, *names):
    """Files below a folder, each of which holds its own name; gives the folder."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return root
