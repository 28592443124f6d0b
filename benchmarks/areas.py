"""AUC and pAUC of many lanes at once against scikit-learn, one call a lane and area.

    python benchmarks/areas.py --lanes 288 --clips 1875

Both take turns on the same scores, a third of them tied; prints a line of JSON.
"""

import argparse
import json
import statistics
import time

import numpy as np
from sklearn.metrics import roc_auc_score

from asdgan.results.metrics import MAX_FPR, auc_pauc


def timed(program):
    began = time.perf_counter()
    areas = program()
    return time.perf_counter() - began, areas


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lanes", type=int, default=288)
    parser.add_argument("--clips", type=int, default=1875, help="test clips, as many as fan has")
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    chance = np.random.default_rng(0)
    labels = (np.arange(chosen.clips) % 5 > 0).astype(int)
    scores = chance.normal(labels, 1, (chosen.lanes, chosen.clips))
    scores[:, ::3] = scores[:, ::3].round(1)

    def plain():
        return [
            [roc_auc_score(labels, lane), roc_auc_score(labels, lane, max_fpr=MAX_FPR)]
            for lane in scores
        ]

    ours, theirs = [], []
    for _ in range(chosen.rounds):
        seconds, (auc, pauc) = timed(lambda: auc_pauc(scores, labels, MAX_FPR))
        ours.append(seconds)
        seconds, expected = timed(plain)
        theirs.append(seconds)
    told = {
        "lanes": chosen.lanes,
        "clips": chosen.clips,
        "ours_ms": round(1e3 * statistics.median(ours), 1),
        "sklearn_ms": round(1e3 * statistics.median(theirs), 1),
        "times": round(statistics.median(theirs) / statistics.median(ours), 1),
        "apart": float(np.abs(np.stack([auc, pauc], -1) - expected).max()),
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
