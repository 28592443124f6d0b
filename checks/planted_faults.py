"""Does every detector hear the demo plant's faults, and nothing where there are none?

    python checks/planted_faults.py     # every model at its defaults, all machine types;
                                        # trainer=quick for large convolutional ones
    python checks/planted_faults.py --models idnn gmade --outputs outputs/planted

The whole interval of the mean AUC over machine types (95 %, of clips; one fixed seed) has to lie
above one half, but for the models in `DEAF`, each with its reason. Then the labels of each result
are shuffled 200 times within their sections: those AUCs have to spread around one half as Mann and
Whitney's statistic does. A point that is done is read back. The exit code is 1 where a law breaks.

Last figures (asdgan 0.1.0, torch 2.13.0, two cores of an x86-64 processor with AVX-512):

    skip_ganomaly_original   0.919 (0.882 to 0.945)   shuffled 0.499 ± 0.0303, by theory ± 0.0312
    skip_ganomaly            0.916 (0.878 to 0.943)   shuffled 0.500 ± 0.0286
    gmade                    0.913 (0.875 to 0.941)   shuffled 0.500 ± 0.0305
    gmade_ensemble           0.906 (0.866 to 0.935)   shuffled 0.500 ± 0.0300
    auddsr (quick)           0.839 (0.790 to 0.879)   shuffled 0.499 ± 0.0285
    wsp_nfcdee               0.831 (0.781 to 0.872)   shuffled 0.499 ± 0.0312
    ganomaly                 0.817 (0.763 to 0.862)   shuffled 0.497 ± 0.0290
    ganomaly_original        0.787 (0.732 to 0.833)   shuffled 0.500 ± 0.0315
    idnn                     0.767 (0.708 to 0.817)   shuffled 0.500 ± 0.0316
    aegan_ad_repository (quick)  0.769 (0.713 to 0.817)   shuffled 0.499 ± 0.0336
    aegan_ad (quick)         0.760 (0.704 to 0.809)   shuffled 0.499 ± 0.0336
    dcase_ae                 0.719 (0.658 to 0.772)   shuffled 0.500 ± 0.0305
    sc (quick)               0.684 (0.619 to 0.742)   shuffled 0.501 ± 0.0326
    id_classifier            0.514 (0.447 to 0.580)   shuffled 0.499 ± 0.0320
    egbad                    0.438 (0.376 to 0.502)   shuffled 0.501 ± 0.0331
    egbad_original           0.390 (0.328 to 0.455)   shuffled 0.499 ± 0.0342
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
from hydra.utils import get_class

from asdgan.config import compose
from asdgan.report import significance
from asdgan.results import intervals, ledger, metrics
from asdgan.results.choose import Source

MODELS = sorted(path.stem for path in (compose.CONF / "model").glob("*.yaml"))
EGBAD = (
    "its paper's AUCs are below one half on three of six machine types (ToyConveyor 33, fan 40, "
    "pump 32); here its discriminator saturates and it never learns to reconstruct"
)
DEAF = {
    "egbad": EGBAD,
    "egbad_original": EGBAD,
    "id_classifier": "at the published rate of 1e-5 the plant's few clips make 180 steps, after "
    "which it hardly knows its sections",
}
SHUFFLES = 200


def train(model: str, outputs: Path) -> None:
    """Runs a model on every machine type, at its defaults where that does not take days."""
    command = [sys.executable, "-m", "asdgan.run", f"model={model}", f"outputs={outputs}"]
    if (compose.CONF / "tempo" / "quick" / f"{model}.yaml").is_file():
        kind = get_class(compose.compose([f"model={model}"]).model._target_)
        command += ["trainer=quick"] if kind.convolutional else []
    subprocess.run([*command, "dataset=demo"], check=True, stdout=subprocess.DEVNULL)


def types_of(folder: Path, model: str) -> list[intervals.TypeScores]:
    """The clip scores of a model's results, machine type by machine type."""
    results, refused = ledger.read_all(folder)
    if refused:
        sys.exit(f"{refused[0][0]}: {refused[0][1]}")
    names = [row["signature"] for one in results for row in one.rows if row["model"] == model]
    return list(significance.by_place(names, significance.scored(Source(folder), names)).values())


def shuffled(types: list[intervals.TypeScores]) -> tuple[float, float, float]:
    """Mean and standard deviation of AUCs whose labels are shuffled, and the latter by theory."""
    generator = np.random.default_rng(0)
    aucs, variance = np.zeros(SHUFFLES), 0.0
    for one in types:
        sections, labels = np.array(one.sections), np.array(one.labels)
        names = sorted(set(one.sections))
        for name in names:
            normal, anomaly = (
                int(((sections == name) & (labels == kind)).sum())
                for kind in ("normal", "anomaly")
            )
            of_section = (normal + anomaly + 1) / (12 * normal * anomaly)
            variance += of_section / (len(names) * len(types)) ** 2
        for draw in range(SHUFFLES):
            for name in names:
                labels[sections == name] = generator.permutation(labels[sections == name])
            judged = metrics.judge(one.scores[:1], one.sections, labels.tolist())
            aucs[draw] += judged[0]["auc"] / len(types)
    return float(aucs.mean()), float(aucs.std(ddof=1)), variance**0.5


def broken(model: str, outputs: Path) -> list[str]:
    """Prints what was found of one model, and gives the laws that it breaks."""
    train(model, outputs)
    types = types_of(outputs / "runs", model)
    found = intervals.interval(types, area="auc", mean="mean")
    assert found is not None  # each of the plant's sections has both classes
    mean, spread, theory = shuffled(types)
    print(
        f"{model:24} {found.value:.3f} ({found.low:.3f} to {found.high:.3f})   "
        f"shuffled {mean:.3f} ± {spread:.4f}, by theory ± {theory:.4f}",
        flush=True,
    )
    laws = []
    if found.low <= 0.5:
        if model in DEAF:
            print(f"{'':24} as its paper has it: {DEAF[model]}")
        else:
            laws.append(f"{model}: its interval reaches down to {found.low:.3f}")
    if abs(mean - 0.5) > 4 * theory / SHUFFLES**0.5 or not 0.75 < spread / theory < 1.25:
        laws.append(f"{model}: shuffled labels give {mean:.3f} ± {spread:.4f}")
    return laws


def main() -> int:
    """Trains what is missing, prints a line a model, and says which laws broke."""
    words = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    words.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    words.add_argument("--outputs", type=Path, default=Path("outputs/planted"))
    asked = words.parse_args()
    laws = [law for model in asked.models for law in broken(model, asked.outputs.absolute())]
    for law in laws:
        print(law)
    return 1 if laws else 0


if __name__ == "__main__":
    sys.exit(main())
