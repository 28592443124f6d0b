"""The published numbers that ours are set beside."""

import csv

import pytest

# Means over ids as the two sources print them themselves (AUC, pAUC, per cent).
PRINTED = {
    "Coelho": {
        "ToyCar": (78.77, 67.58), "ToyConveyor": (72.53, 60.43), "fan": (65.83, 52.45),
        "pump": (72.89, 59.99), "slider": (84.76, 66.53), "valve": (66.28, 50.98),
    },
    "README": {
        "ToyCar": (80.09, 67.22), "ToyConveyor": (72.68, 60.66), "fan": (65.16, 52.59),
        "pump": (72.59, 60.00), "slider": (84.99, 66.93), "valve": (66.46, 50.60),
    },
}  # fmt: skip


@pytest.mark.parametrize("source", PRINTED)
def test_typed_numbers_give_the_averages_that_their_source_prints(repository, source):
    with (repository / "sweeps" / "published" / "dcase_ae.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if source in row["source"]]
    assert len(rows) == 23
    for machine_type, printed in PRINTED[source].items():
        own = [row for row in rows if row["machine_type"] == machine_type]
        for name, mean in zip(("auc", "pauc"), printed, strict=True):
            found = sum(float(row[name]) for row in own) / len(own)
            assert found == pytest.approx(mean, abs=0.0051)
