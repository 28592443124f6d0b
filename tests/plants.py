"""The smallest plant on which a sweep is a sweep, and networks to match."""

PLANT = (
    "machine=fan", "dataset.seconds=2", "dataset.ids=1", "dataset.train_clips=2",
    "dataset.test_clips=2",
)  # fmt: skip
TINY = ("features.mels=16", "model.hidden_width=16", "batch=32", "trainer.compile=false")
