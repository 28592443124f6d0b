"""A finished run scores new wavs: its own clips as it did, bad ones by a sentence."""

import csv
import json
import os
import re

import numpy as np
import pytest
import soundfile
from recordings import MORE, TWO_MACHINES, WAVS, plant, settings_of
from small_models import NAMES

from asdgan import run
from asdgan.config import compose as settings
from asdgan.config import traits
from asdgan.deploy import score
from asdgan.results import ledger
from asdgan.results.choose import Stored
from asdgan.results.threshold import p_value, usual_threshold
from asdgan.training import machine_data
from asdgan.training import train as job
from asdgan.training.stack import Stack


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A result, and the folder of recordings that it learned from."""
    root = plant(tmp_path_factory.mktemp("own") / "pump")
    (kept,) = run.run(settings_of("ganomaly", root))
    return kept.path, root


def stored_of(path, number=0):
    result = ledger.read(path)
    return Stored(result.rows[number], result, number)


def agree(path, root, number=0):
    """Whether every test clip has, scored anew, the score that a point's result holds."""
    stored = stored_of(path, number)
    ready, arrays = score.scorer(stored), ledger.read_scores(stored.result)
    found = [ready.score(root / name) for name in arrays["clip"]]
    kept = arrays[f"score/{stored.row['primary']}"][number]
    assert len(found) > 2
    return found == pytest.approx(kept.tolist(), rel=1e-6)


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# Scores -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_runs_own_clips_get_their_scores_again(tmp_path, name):
    root = plant(tmp_path / "pump", names=(*TWO_MACHINES, *MORE), shortest=0.6)
    config = settings_of(name, root)
    config.dataset = settings.compose(["dataset=dcase2020", f"dataset.root={tmp_path}"]).dataset
    (kept,) = run.run(config)
    assert agree(kept.path, tmp_path)


def test_a_run_on_one_of_mimiis_channels_hears_that_channel_of_new_wavs(tmp_path):
    root, generator = tmp_path / "mimii", np.random.default_rng(0)
    for number in range(8):
        kind = "abnormal" if number == 7 else "normal"
        path = root / f"0_dB/fan/id_00/{kind}/{number:08d}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, generator.normal(0, 0.1, (16000, 8)), 16000, subtype="PCM_16")
    told = ["machine=fan", "epochs=1", "batch=32", "features.mels=16", "logger=none"]
    told += ["trainer.compile=false", f"dataset.root={root}", f"outputs={tmp_path / 'out'}"]
    (kept,) = run.run(
        settings.compose(["model=dcase_ae", "dataset=mimii", "dataset.channel=3", *told])
    )
    ready, arrays = score.scorer(stored_of(kept.path)), ledger.read_scores(ledger.read(kept.path))
    found = [ready.score(root / "0_dB" / name) for name in arrays["clip"]]
    assert found == pytest.approx(arrays["score/recon_l2"][0].tolist(), rel=1e-6)


def test_a_lane_of_a_stack_is_scored_with_its_own_settings_and_weights(tmp_path):
    root = plant(tmp_path / "pump")
    config = settings_of("ganomaly", root)
    heard = machine_data.listen(config, root, "pump", lambda title, total: lambda count=1: None)
    lanes = ({"seed": 3, "dropout": 0.0}, {"seed": 4, "dropout": 0.25})
    stack = Stack(config, "pump", heard.data, traits.recipe_of(config), lanes, (1,))
    kept = job.train(stack, heard, outputs=tmp_path, keep=2)
    assert [agree(kept[0].path, root, number) for number in (0, 1)] == [True, True]
    detector = score.scorer(stored_of(kept[0].path, 1)).detector
    assert (detector.seeds, detector.lanes, float(detector.dropout_rates)) == ([4], (), 0.25)


def test_another_rate_is_resampled_where_the_run_did_so(tmp_path):
    root = plant(tmp_path / "pump", rate=44100)
    (kept,) = run.run(settings_of("dcase_ae", root, "features.resample=true"))
    assert agree(kept.path, root)


def test_a_p_value_counts_normal_clips_that_are_as_strange():
    known = np.array([1.0, 2.0, 2.0, 3.0])
    assert [p_value(x, known) for x in (0.0, 2.0, 2.5, 9.0)] == [1.0, 0.8, 0.4, 0.2]


def test_where_no_gamma_fits_the_usual_threshold_is_the_quantile():
    limit = usual_threshold(np.full(5, 2.0))
    assert (limit.fit, limit.value) == ("quantile", 2.0)
    assert [limit.verdict(x) for x in (2.0, 2.1)] == ["normal", "anomaly"]
    assert usual_threshold(np.array([1.0, np.nan])) is None


# The command ------------------------------------------------------------------------------------


def test_a_bad_file_gets_its_sentence_and_the_others_their_scores(finished, tmp_path, capsys):
    path, root = finished
    (tmp_path / "page.wav").write_bytes(b"<html>")
    soundfile.write(tmp_path / "fast.wav", np.zeros(48000), 48000)
    soundfile.write(tmp_path / "short.wav", np.zeros(1000), 16000)
    clips = [root / "test", *(tmp_path / f"{name}.wav" for name in ("page", "fast", "short"))]
    told = ["--csv", str(tmp_path / "a.csv"), "--json", str(tmp_path / "a.json")]
    assert score.main([str(path), *map(str, clips), "gone.wav", *told]) == 1
    lines = read_csv(tmp_path / "a.csv")
    assert [line["clip"] for line in lines[:3]] == [str(one) for one in sorted(clips[0].iterdir())]
    assert all(float(line["score"]) > 0 and not line["error"] for line in lines[:3])
    sentences = [line["error"] for line in lines[3:]]
    for sentence, words in zip(
        sentences,
        ["a saved web page", "48000 Hz, but 16000", "at least n_fft=1024", "no such file"],
        strict=True,
    ):
        assert words in sentence
    assert json.loads((tmp_path / "a.json").read_text())["clips"][5]["error"] == sentences[2]
    said = capsys.readouterr().out
    assert "4 of 7 could not be scored" in said
    assert said.count("not scored") == 4
    assert all(f"{sentence}\n" in said for sentence in sentences)


def test_threshold_verdict_and_p_value_are_by_the_training_scores(finished, tmp_path, capsys):
    path, root = finished
    told = ["--threshold", "quantile", "--quantile", "0.5", "--json", str(tmp_path / "a.json")]
    assert score.main([str(path.parent), str(root), *told]) == 0
    body = json.loads((tmp_path / "a.json").read_text())
    train = ledger.read_scores(ledger.read(path))["train_score/recon_l1"][0]
    assert body["point"]["threshold"]["value"] == np.median(train)
    assert len(body["clips"]) == len(WAVS)
    for line in body["clips"]:
        assert line["verdict"] == ("anomaly" if line["score"] > np.median(train) else "normal")
        assert line["p_value"] == (1 + sum(train >= line["score"])) / (1 + len(train))
    assert "settings named; score recon_l1; threshold: quantile at 0.5" in capsys.readouterr().out


def test_scores_alone_need_no_training_scores(tmp_path, capsys):
    root = plant(tmp_path / "pump")
    (kept,) = run.run(settings_of("dcase_ae", root, "trainer.train_scores=false"))
    assert score.main([str(kept.path), str(root)]) == 2
    assert "no scores of training clips" in capsys.readouterr().err
    told = ["--threshold", "none", "--csv", str(tmp_path / "a.csv")]
    assert score.main([str(kept.path), str(root), *told]) == 0
    line = read_csv(tmp_path / "a.csv")[0]
    assert float(line["score"]) > 0
    assert line["threshold"] == line["verdict"] == line["p_value"] == ""


def test_of_several_points_a_rule_takes_one_and_that_is_said(tmp_path, capsys):
    root = plant(tmp_path / "pump")
    for seed in (0, 1):
        run.run(settings_of("dcase_ae", root, f"seed={seed}"))
    runs, clip = str(tmp_path / "runs"), str(root / "test" / "normal_1.wav")
    assert score.main([runs, clip]) == 2
    assert "2 points on pump, which differ in seed (0, 1)" in capsys.readouterr().err
    assert score.main([runs, clip, "--choose", "auc"]) == 0
    assert "settings oracle: best of 2 by auc" in capsys.readouterr().out
    assert score.main([runs, clip, "--where", "seed=1"]) == 0
    assert "seed 1, point" in capsys.readouterr().out


def test_of_several_machine_types_one_is_named(tmp_path, capsys):
    for name in ("pump", "fan"):
        run.run(settings_of("dcase_ae", plant(tmp_path / name)))
    runs, clip = str(tmp_path / "runs"), str(tmp_path / "fan" / "train" / "a.wav")
    assert score.main([runs, clip]) == 2
    assert "holds detectors of fan, pump; say which by --machine" in capsys.readouterr().err
    assert score.main([runs, clip, "--machine", "fan"]) == 0
    assert "dcase_ae on fan" in capsys.readouterr().out


def without_weights(folder):
    """Stores the result of a folder anew, its weights left out."""
    path = folder / "epochs_00001.json"
    result = ledger.read(path)
    arrays, config = ledger.read_scores(result), ledger.read_config(result)
    for one in folder.iterdir():
        one.unlink()
    ledger.write(folder, epochs=1, rows=result.rows, scores=arrays, weights=None, config=config)


def flip(path):
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (without_weights, "were not kept .* run that point alone, with another outputs="),
        (lambda f: flip(f / "epochs_00001.safetensors"), "sha256 is not .* run that point again"),
        (lambda f: flip(f / "epochs_00001.scores.npz"), "sha256 is not .* run that point again"),
        (lambda f: flip(f / "config.yaml"), "config.yaml: sha256 is not .* run that point again"),
    ],
)
def test_what_is_missing_or_damaged_is_one_sentence(tmp_path, capsys, harm, words):
    root = plant(tmp_path / "pump")
    (kept,) = run.run(settings_of("dcase_ae", root))
    capsys.readouterr()
    harm(kept.path.parent)
    assert score.main([str(kept.path.parent), str(root)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert re.search(words, said.err)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--quantile", "1"], "--quantile 1.0 is not between 0 and 1"),
        (["--section", "07"], "--section 07: pump has the sections 00"),
        (["--machine", "fan"], "no result with machine_type=fan"),
        (["--threshold", "normal"], "invalid choice: 'normal'"),
    ],
)
def test_a_wrong_argument_is_one_sentence(finished, capsys, arguments, words):
    path, root = finished
    assert score.main([str(path.parent), str(root), *arguments]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


def test_a_folder_without_a_wav_is_a_bad_one(finished, tmp_path, capsys):
    path, _ = finished
    assert score.main([str(path), str(tmp_path)]) == 1
    assert "is a folder without a wav; name one that holds some" in capsys.readouterr().out


def test_names_that_are_no_text_are_scored_and_written(finished, tmp_path, capsys):
    path, root = finished
    strange = os.fsencode(tmp_path) + b"/\xff\n=.wav"
    with open(strange, "wb") as file:
        file.write((root / "train" / "a.wav").read_bytes())
    assert score.main([str(path), str(tmp_path), "--csv", str(tmp_path / "a.csv")]) == 0
    assert float(read_csv(tmp_path / "a.csv")[0]["score"]) > 0
    assert "1 of 1" not in capsys.readouterr().out
