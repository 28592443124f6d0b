"""The main command, end to end: the demo plant, real clips, published weights."""

import csv
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import soundfile
import torch
from omegaconf import OmegaConf

from asdgan import run
from asdgan.config import compose
from asdgan.data.frames import Frames, LogMel, log_mel
from asdgan.data.windows import Windows
from asdgan.errors import BadInput
from asdgan.results import ledger
from asdgan.results.threshold import usual_threshold
from asdgan.training import evaluate

TINY = (
    "dataset.seconds=2", "dataset.ids=1", "dataset.train_clips=2", "dataset.test_clips=2",
    "machine=fan", "features.mels=16", "model.hidden_width=16", "batch=64", "epochs=2",
    "trainer.compile=false", "logger=none",
)  # fmt: skip


def tiny(tmp_path, *overrides, model="ganomaly"):
    config = compose.compose([f"model={model}", *TINY, f"outputs={tmp_path}", *overrides])
    return run.run(config)


def scores_of(kept):
    return ledger.read_scores(ledger.read(kept.path))


def shrunk_clips(shared, tmp_path, layout):
    command = [sys.executable, str(shared / "data" / "materialise.py"), layout, str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    return tmp_path


def test_the_same_command_twice_gives_the_same_scores(tmp_path):
    first, second = (tiny(tmp_path / name, "dropout=0.25")[0] for name in ("a", "b"))
    assert first.row["signature"] == second.row["signature"]
    assert first.row["losses"] == second.row["losses"]
    ours, theirs = scores_of(first), scores_of(second)
    assert all(np.array_equal(ours[key], theirs[key]) for key in ours)


def test_a_result_is_complete_and_read_back_instead_of_trained_again(tmp_path, capsys):
    (kept,) = tiny(tmp_path)
    assert len(kept.row["losses"]["train/loss_g"]) == 2
    assert set(kept.row["components"]) == {"latent", "recon_l1", "recon_l2", "disc_features"}
    stored = scores_of(kept)
    assert stored["score/latent"].shape == (1, kept.row["test_clips"]) == (1, 4)
    assert (kept.path.parent / "config.yaml").exists()
    assert list(kept.path.parent.glob("*.safetensors"))
    assert "weighted mean" in capsys.readouterr().out
    before = kept.path.stat().st_mtime_ns
    (again,) = tiny(tmp_path)
    assert again.row == kept.row
    assert again.path.stat().st_mtime_ns == before


def test_a_row_says_how_healthy_each_epoch_was_and_what_ailed_the_run(tmp_path, capsys):
    changes = ("model.rebirth_below=100", "model.bn_at_test=clip", "batch=16")
    (kept,) = tiny(tmp_path, *changes)
    health = kept.row["health"]
    assert set(health) == {"d_real", "d_fake", "dead", "balance", "spread", "births"}
    assert all(len(values) == 2 for values in health.values())
    births = int(health["births"][-1])
    told = [f"discriminator given fresh weights {births} times", evaluate.TRANSDUCTIVE]
    assert births > 10
    assert set(told) <= set(kept.row["flags"])
    printed = " ".join(capsys.readouterr().out.split())
    assert all(text in printed for text in told)


@pytest.mark.parametrize("model", ["ganomaly", "skip_ganomaly", "egbad"])
def test_the_repositorys_reading_trains_scores_and_judges(tmp_path, model):
    (kept,) = tiny(tmp_path, model=f"{model}_original")
    assert kept.row["model"] == f"{model}_original"
    assert all(of["auc"] is not None for of in kept.row["components"].values())
    assert kept.row["auc"] == kept.row["components"][kept.row["primary"]]["auc"]


def test_training_clips_are_scored_too_and_need_not_be(tmp_path):
    (kept,), (without,) = (
        tiny(tmp_path / name, "epochs=1", f"trainer.train_scores={name}")
        for name in ("true", "false")
    )
    whole, bare = scores_of(kept), scores_of(without)
    assert whole["train_score/recon_l1"].shape == (1, kept.row["train_clips"]) == (1, 2)
    assert whole["train_section"].tolist() == ["00", "00"]
    assert {key for key in whole if key not in bare} == {
        "train_section", "train_domain", "train_score/recon_l1",
    }  # fmt: skip
    assert all(np.array_equal(whole[key], values) for key, values in bare.items())
    assert kept.row["signature"] == without.row["signature"]


@pytest.mark.parametrize("typed", ["model.pool=[max,mean]", "windows.test_stride=7"])
def test_what_differs_in_scoring_only_is_scored_anew_and_not_trained(tmp_path, caplog, typed):
    caplog.set_level("INFO", "asdgan")
    first = tiny(tmp_path / "a")[0].row
    more = (typed, *(["model.primary=recon_l1_max"] if "pool" in typed else []))
    (again,), (whole,) = (tiny(tmp_path / name, *more) for name in ("a", "b"))
    assert caplog.text.count(f"trained before as {first['signature']}: scored anew") == 1
    assert again.row["signature"] == whole.row["signature"] != first["signature"]
    assert again.row["losses"] == whole.row["losses"]
    assert again.row["health"] == whole.row["health"]
    ours, theirs = scores_of(again), scores_of(whole)
    assert all(np.array_equal(ours[key], theirs[key]) for key in theirs)


def test_a_number_typed_in_another_way_is_no_other_training(tmp_path, caplog):
    caplog.set_level("INFO", "asdgan")
    tiny(tmp_path, "features.power=2")
    tiny(tmp_path, "features.power=2.0", "model.pool=max")
    assert "scored anew" in caplog.text


def test_what_differs_in_training_is_trained(tmp_path, caplog):
    caplog.set_level("INFO", "asdgan")
    for typed in ("lr=0.001", "seed=1", "epochs=1", "windows.stride=2"):
        tiny(tmp_path, typed)
    assert "scored anew" not in caplog.text


def test_a_machine_type_is_the_same_point_alone_and_after_another(tmp_path):
    _, pump = tiny(tmp_path, "machine=[fan,pump]", "epochs=1")
    before = pump.path.stat().st_mtime_ns
    (again,) = tiny(tmp_path, "machine=pump", "epochs=1")
    assert again == pump
    assert again.path.stat().st_mtime_ns == before


def test_a_damaged_result_is_left_out_and_made_again(tmp_path):
    (kept,) = tiny(tmp_path)
    kept.path.write_bytes(kept.path.read_bytes().replace(b'"auc"', b'"avc"', 1))
    results, damaged = ledger.read_all(tmp_path)
    assert not results
    assert damaged[0][0] == kept.path
    (again,) = tiny(tmp_path)
    assert again.row["losses"] == kept.row["losses"]


def test_one_changed_wav_makes_another_point_and_another_feature_file(tmp_path):
    (kept,) = tiny(tmp_path)
    plant = next((tmp_path / "demo").glob("*/dev_data")).parent
    copied = shutil.copytree(plant, tmp_path / "copy")
    same = f"dataset.root={copied}"
    assert tiny(tmp_path, same)[0].path == kept.path
    files = set((tmp_path / "features").glob("*.npy"))
    wav = sorted(copied.glob("dev_data/fan/train/*.wav"))[0]
    samples, rate = soundfile.read(wav, dtype="int16")
    samples[1000] += 1
    soundfile.write(wav, samples, rate, subtype="PCM_16")
    (other,) = tiny(tmp_path, same)
    assert other.row["signature"] != kept.row["signature"]
    assert len(set((tmp_path / "features").glob("*.npy")) - files) == 1


@pytest.mark.skipif(find_spec("mlflow") is not None, reason="mlflow is installed here")
def test_a_logger_that_is_not_installed_says_what_to_install(tmp_path):
    with pytest.raises(BadInput, match=r"logger=mlflow .* pip install 'asdgan\[mlflow\]'"):
        tiny(tmp_path, "logger=mlflow")


def test_losses_that_are_not_finite_leave_a_record_and_no_result(tmp_path):
    with pytest.raises(FloatingPointError, match="no result for fan"):
        tiny(tmp_path, "lr=1e30", "epochs=3")
    assert list(tmp_path.glob("runs/*/failure_*.json"))
    assert ledger.read_all(tmp_path) == ([], [])


def recordings(folder, *names, rate=16000):
    """Noise, each clip longer than the one before; gives the overrides that name the folder."""
    generator = np.random.default_rng(0)
    for number, name in enumerate(names, 1):
        path = folder / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, generator.normal(0, 0.1, number * rate), rate, subtype="PCM_16")
    rest = [o for o in TINY if not o.startswith(("dataset.", "machine="))]
    where = ("dataset=folder", f"dataset.root={folder}", f"outputs={folder.parent}")
    return ["model=dcase_ae", *rest, *where]


def test_unlabelled_recordings_are_scored_and_not_judged(tmp_path, capsys):
    mine = recordings(tmp_path / "mine", "train/a", "train/b", "train/c", "test/c", "test/d")
    (kept,) = run.run(compose.compose(mine))
    assert kept.row["auc"] is None
    stored = scores_of(kept)
    assert stored["score/recon_l2"].shape == (1, 2)
    limit = usual_threshold(stored["train_score/recon_l2"][0])
    said = capsys.readouterr().out
    assert "mine: not judged, no labels to judge by" in said
    assert f"mine: threshold {limit.value:.6g} of recon_l2, {limit.fit} at 0.9 of the" in said
    for clip, score in zip(stored["clip"], stored["score/recon_l2"][0], strict=True):
        assert f"{score:.6g}  {clip}  {limit.verdict(score)}\n" in said
    assert "nan" not in said


def test_normal_clips_of_one_kind_are_not_judged_and_that_is_said(tmp_path, capsys):
    run.run(compose.compose(recordings(tmp_path / "mine", "train/a", "train/b", "test/normal_1")))
    said = capsys.readouterr().out
    assert "mine: not judged, no section has clips of both labels" in said
    assert "0 anomaly" in said


def test_normal_recordings_of_another_rate_are_resampled_when_asked_and_give_a_threshold(
    tmp_path, repository
):
    mine = recordings(tmp_path / "mine", "normal/a", "normal/b", "normal/c", rate=8000)
    with pytest.raises(BadInput, match=r"8000 Hz, .*resample=true, or features.sample_rate=8000"):
        run.run(compose.compose(mine))
    said = subprocess.run(
        [sys.executable, "-m", "asdgan.run", *mine, "features.resample=true"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "mine: not judged" in said.stdout
    assert "of the scores of 3 training clips" in said.stdout


def test_a_machine_type_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    with pytest.raises(BadInput, match=r"machine=fam: .* has no such machine type; it has ToyCar"):
        tiny(tmp_path, "machine=fam")


@pytest.mark.parametrize("name", ["ToyCar", "fan"])
def test_published_weights_give_the_published_scores(shared, name):
    config = compose.compose(["model=dcase_ae", "dataset=folder", "dataset.root=unused"])
    detector = compose.build(config)
    detector.load_published(shared / "golden" / f"ae_{name}.npz")
    with (shared / "golden" / "expected_scores.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["machine_type"] == name]
    for row in rows:
        clip = shared / "data" / "dcase2020_clips" / "dev_data" / name / "test" / row["file"]
        samples, _ = soundfile.read(clip.with_suffix(".flac"), dtype="float32")
        padding = "reflect" if row["pad_mode"] == "either" else row["pad_mode"]
        chosen = LogMel(**(OmegaConf.to_container(config.features) | {"pad_mode": padding}))
        first, _, last = row["frames"].partition(":")
        frames = log_mel(torch.from_numpy(samples)[None], chosen)[0].T.contiguous()
        frames = frames[int(first or 0) : int(last or len(frames))]
        one = Recording(row["file"])
        windows = Windows(
            Frames(frames, torch.tensor([0, len(frames)])), [one], length=5, stride=1
        )
        score = detector.score_clips(windows)["recon_l2"]
        assert float(score) == pytest.approx(float(row["published_score"]), abs=1e-3)


class Recording:
    def __init__(self, path):
        self.path, self.section, self.domain, self.attributes = path, "00", None, ()


def real_run(root, tmp_path, release, *overrides):
    rest = [o for o in TINY if not o.startswith(("dataset.", "machine="))]
    where = (f"dataset={release}", f"dataset.root={root}", f"outputs={tmp_path}")
    fast = ("model=skip_ganomaly", "epochs=1", "windows.stride=8")
    return run.run(compose.compose([*rest, *where, *fast, *overrides]))


def test_real_clips_are_trained_on_scored_and_judged(shared, tmp_path, capsys):
    root = shrunk_clips(shared, tmp_path / "real", "smoke6")
    pump = root / "dev_data" / "pump"
    moved = next((pump / "train").glob("normal_id_02_*.wav"))
    moved.rename(pump / "test" / moved.name)  # an id whose test clips are all normal
    shutil.copy(next((pump / "train").glob("normal_id_00_*")), pump / "train" / moved.name)
    kept = {one.row["machine_type"]: one.row for one in real_run(root, tmp_path, "dcase2020")}
    assert set(kept) == {"ToyCar", "ToyConveyor", "fan", "pump", "slider", "valve"}
    assert set(kept["ToyCar"]["sections"]) == {"01", "02", "03", "04"}
    sections = kept["pump"]["sections"]
    assert sections["02"]["auc"] is None
    others = [of["auc"] for name, of in sections.items() if name != "02"]
    assert kept["pump"]["auc"] == pytest.approx(sum(others) / len(others), abs=1e-12)
    assert "pump 02 undefined: id_02: 1 normal, 0 anomaly clips" in capsys.readouterr().out


def test_real_clips_of_mixed_origin_are_trained_on_scored_and_judged(shared, tmp_path):
    root = shrunk_clips(shared, tmp_path / "real", "bench4")
    kept = {one.row["machine_type"]: one.row for one in real_run(root, tmp_path, "dcase2020")}
    assert {name: row["test_clips"] for name, row in kept.items()} == {
        "fan": 42, "lathe": 30, "slider": 16, "valve": 70,
    }  # fmt: skip
    assert all(0 <= row["auc"] <= 1 for row in kept.values())


def test_real_clips_of_2023_carry_their_domain_to_their_scores(shared, tmp_path):
    valve = shrunk_clips(shared, tmp_path / "real", "dcase2023") / "dev_data" / "valve"
    (valve / "train").mkdir()
    for path in sorted((valve / "test").glob("*_normal_00[012]*.wav")):
        path.rename(valve / "train" / path.name.replace("_test_", "_train_"))
    (kept,) = real_run(tmp_path / "real", tmp_path, "dcase2023")
    assert (kept.row["train_clips"], kept.row["test_clips"]) == (30, 70)
    assert kept.row["settings"]["dataset.subset"] == "dev"
    assert set(scores_of(kept)["domain"]) == {"source"}
    assert kept.row["sections"]["00"]["anomaly"] == 50


def test_evaluation_clips_are_judged_by_the_list_that_is_pointed_to(shared, tmp_path):
    home = tmp_path / "real" / "eval_data" / "valve"
    valve = shrunk_clips(shared, tmp_path / "all", "dcase2023") / "dev_data" / "valve" / "test"
    rows = {"data": [], "domain": []}
    for number, path in enumerate(sorted(valve.glob("*_00[34]?_*.wav"))):
        name = f"section_03_{number:04}.wav"
        rows["data"].append(f"{name},{int('anomaly' in path.name)}\n")
        rows["domain"].append(f"{name},{number % 2}\n")
        (home / "test").mkdir(parents=True, exist_ok=True)
        path.rename(home / "test" / name)
    (home / "train").mkdir()
    for path in sorted(valve.glob("*_normal_00[012]?_*.wav")):
        name = path.name.replace("_test_", "_train_").replace("section_00", "section_03")
        path.rename(home / "train" / name)
    for kind, lines in rows.items():
        listed = (
            tmp_path / "truth" / f"ground_truth_{kind}" / "ground_truth_valve_section_03_test.csv"
        )
        listed.parent.mkdir(parents=True)
        listed.write_text("".join(lines))
    blind, told = (
        real_run(tmp_path / "real", tmp_path, "dcase2022", "dataset.subset=eval", *rest)[0]
        for rest in ((), (f"dataset.truth={tmp_path / 'truth'}",))
    )
    assert (blind.row["auc"], told.row["sections"]["03"]["normal"]) == (None, 20)
    assert blind.row["signature"] != told.row["signature"]
    assert set(scores_of(told)["domain"]) == {"source", "target"}
    assert np.array_equal(scores_of(told)["score/combined"], scores_of(blind)["score/combined"])


def test_the_command_line_answers_a_mistake_with_a_sentence_and_exit_code_2(tmp_path, repository):
    command = [sys.executable, "-m", "asdgan.run", "modle=ganomaly"]
    environment = os.environ | {"PYTHONPATH": str(repository)}
    said = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert said.returncode == 2
    assert said.stderr == "asdgan: modle: no such setting; did you mean model?\n"
    assert not list(tmp_path.iterdir())


def test_a_reader_that_goes_away_leaves_no_traceback(tmp_path, repository):
    command = f"{sys.executable} -m asdgan.run --help | true"
    environment = os.environ | {"PYTHONPATH": str(repository)}
    said = subprocess.run(
        command,
        shell=True,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.stderr == ""
