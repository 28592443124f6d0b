"""What selection is worth, against planted truth: noise, a good point, and sums made by hand."""

import csv
import os

import numpy as np
import pytest

from asdgan.config import compose
from asdgan.report import board, selection, split_half
from asdgan.results import ledger, metrics

COLUMNS = ("auc", "split_half", "label_free")


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)  # no power cut is tried here


def clips_of(sections=("00", "02"), normal=20, anomaly=30, domains=("",)):
    """Test clips as a result stores them: those of a label are of each domain in turn."""
    rows = [
        (f"{label}_id_{section}_{number:04d}.wav", section, label, domains[number % len(domains)])
        for section in sections
        for label, count in (("normal", normal), ("anomaly", anomaly))
        for number in range(count)
    ]
    columns = zip(*rows, strict=True)
    return dict(zip(("clip", "section", "label", "domain"), map(np.array, columns), strict=True))


def noise(points, clips, seed=0, good=None):
    """Scores by chance; those of one point know the labels."""
    scores = np.random.default_rng(seed).normal(size=(points, len(clips["clip"])))
    if good is not None:
        scores[good] += 3 * (clips["label"] == "anomaly")
    return scores


def add(
    root, scores, clips, *, held=None, vary="batch", values=None, seeds=1, usual=(), **other
):  # fmt: skip
    """Stores points of one stack, `seeds` of them a setting; `held` are their held-out errors."""
    judged = metrics.judge(scores, clips["section"].tolist(), clips["label"].tolist())
    rows = []
    for number, one in enumerate(judged):
        value = (values or range(len(scores)))[number // seeds]
        row = {
            "model": "ganomaly", "recipe": 1, "release": "dcase2020", "data": "fan-data",
            "machine_type": "fan", "seed": number % seeds, "epochs": 10,
            "settings": {"lr": 0.0002, **dict(usual), vary: value},
            "selection": {"settings": "named", "checkpoint": "last"}, "primary": "latent",
            "commit": "abcdef0123456789",
            **{key: one[key] for key in ("auc", "pauc", "sections", "clips")}, **other,
        }  # fmt: skip
        if held is not None and held[number] is not None:
            row["losses"] = {"val/recon_l1": [9.0, float(held[number])], "val/latent": [1.0, 1.0]}
        named = {**row["settings"], **{key: row[key] for key in ("model", "seed", "epochs")}}
        row["signature"] = ledger.signature(named, 1, row["data"])
        rows.append(row)
    folder = root / "runs" / str(len(list(root.rglob("*.json"))))
    arrays = {**clips, f"score/{rows[0]['primary']}": scores}
    epochs = rows[0]["epochs"]
    return ledger.write(
        folder, epochs=epochs, rows=rows, scores=arrays, weights=None, config=""
    )  # fmt: skip


def told(root, **asked):
    """The lines of all results below a folder, of one release."""
    (lines,) = selection.of((one for _, one in ledger.each(root)), **asked).values()
    return lines


def shown(root, capsys, *arguments, code=0):
    assert board.main([str(root), "--by", "selection", *arguments]) == code
    return "".join(capsys.readouterr())


def test_of_noise_the_oracle_is_far_above_chance_and_the_split_half_is_not(tmp_path):
    clips = clips_of()
    add(tmp_path, noise(500, clips), clips, held=np.arange(500.0))
    line, *_ = told(tmp_path)
    assert line["auc"] > 0.6
    assert [line[key] for key in ("split_half", "median")] == pytest.approx([0.5, 0.5], abs=0.02)
    assert line["gap_split_half"] == pytest.approx(line["auc"] - 0.5, abs=0.02)
    assert abs(line["label_free"] - 0.5) < 0.12  # one point of noise
    assert line["gap_label_free"] == line["auc"] - line["label_free"]


def test_a_pauc_that_is_larger_on_fewer_clips_is_no_gain(tmp_path):
    clips = clips_of(normal=20, anomaly=30)
    add(tmp_path, noise(200, clips), clips)
    line, *_ = told(tmp_path, area="pauc")
    assert line["in_halves"] > line["split_half"] > 0.5
    assert line["gap_split_half"] == pytest.approx(line["in_halves"] - line["split_half"])


def test_a_point_that_is_truly_best_is_found_by_all_three(tmp_path):
    clips = clips_of()
    held = [0.1 if number == 77 else 1 + number for number in range(200)]
    add(tmp_path, noise(200, clips, good=77), clips, held=held)
    line, *_ = told(tmp_path)
    assert line["signatures"] == line["label_free_signatures"]
    assert line["gap_label_free"] == 0
    assert abs(line["gap_split_half"]) < 1e-12
    assert line["in_halves"] == pytest.approx(line["auc"], abs=0.002)
    assert line["auc"] > 0.95


def worth(scores, sections, side, area, seeds):
    """Of each setting, over its seeds and over sections, in a half."""
    areas = []
    for one in sections:
        mine = one.halves[side]
        areas.append(metrics.auc_pauc(scores[:, one.clips[mine]], one.anomalous[mine], 0.1))
    return np.mean(areas, axis=0)[metrics.AREAS.index(area)].reshape(-1, seeds).mean(1)


@pytest.mark.parametrize("area", metrics.AREAS)
def test_the_split_half_is_a_sum_made_by_hand(tmp_path, area):
    clips, seeds, splits = clips_of(), 2, 5
    scores = noise(12, clips).round(1)  # ties
    add(tmp_path, scores, clips, seeds=seeds)
    sections, _ = split_half.halved(clips, "fan-data", splits)
    values, halved = np.empty((splits, 2)), []
    for half in range(2 * splits):
        here, there = (worth(scores, sections, side, area, seeds) for side in (half, half ^ 1))
        values.flat[half] = there[here.argmax()]
        halved.append(there)
    line, *_ = told(tmp_path, area=area, splits=splits)
    wanted = values.mean(), values.mean(1).std(ddof=1)
    assert (line["split_half"], line["split_half_sd"]) == pytest.approx(wanted, abs=1e-12)
    assert min(abs(np.mean(halved, axis=0) - line["in_halves"])) < 1e-12


@pytest.mark.parametrize("max_fpr", [1.0, 0.1])
def test_areas_of_parts_are_those_of_their_clips_each_as_often_as_it_counts(max_fpr):
    chance = np.random.default_rng(5)
    scores, labels = chance.integers(0, 9, (3, 60)).astype(float), chance.integers(0, 2, 60)
    parts = chance.integers(0, 3, (7, 60))
    found = split_half.area_of_parts(scores, labels, parts, max_fpr)
    for part, areas in zip(parts, found.T, strict=True):
        alone = metrics.auc_pauc(scores.repeat(part, axis=1), labels.repeat(part), max_fpr)
        assert areas == pytest.approx(alone[1], abs=1e-12)


def test_the_oracle_is_the_winner_that_by_best_shows(tmp_path, capsys):
    clips = clips_of()
    add(tmp_path, noise(40, clips), clips, seeds=2)
    board.main([str(tmp_path), "--by", "best", "--csv", str(tmp_path / "a.csv")])
    with open(tmp_path / "a.csv", newline="") as file:
        best = next(csv.DictReader(file))
    line, *_ = told(tmp_path)
    assert [str(line[key]) for key in ("signatures", "chosen_among", "seeds", "selection")] == [
        best[key] for key in ("signatures", "chosen_among", "seeds", "selection")
    ]
    assert [line[area] for area in metrics.AREAS] == pytest.approx(
        [float(best[area]) for area in metrics.AREAS], abs=1e-12
    )


@pytest.mark.parametrize("domains", [("",), ("source", "target")])
def test_halves_have_as_many_clips_of_each_section_label_and_domain_but_for_one(domains):
    clips = clips_of(normal=7, anomaly=10, domains=domains)
    sections, left_out = split_half.halved(clips, "any", 6)
    assert (len(sections), left_out) == (2, [])
    for one in sections:
        first, second = one.halves[::2], one.halves[1::2]
        assert (first ^ second).all()
        assert len({half.tobytes() for half in one.halves}) == 12
        for label in (False, True):
            for domain in domains:
                kind = (one.anomalous == label) & (clips["domain"][one.clips] == domain)
                assert (abs(first[:, kind].sum(1) - second[:, kind].sum(1)) <= 1).all()
            kind = one.anomalous == label
            assert (abs(first[:, kind].sum(1) - second[:, kind].sum(1)) <= 1).all()


def test_halves_follow_from_the_data_alone_whatever_the_order_of_clips():
    clips = clips_of(sections=("00",))
    order = np.random.default_rng(1).permutation(len(clips["clip"]))
    turned = {key: column[order] for key, column in clips.items()}
    ((one,), _), ((other,), _) = (split_half.halved(some, "x", 3) for some in (clips, turned))
    for mine, theirs in zip(one.halves, other.halves, strict=True):
        names = clips["clip"][one.clips[mine]], turned["clip"][other.clips[theirs]]
        assert set(names[0]) == set(names[1])
    ((third,), _) = split_half.halved(clips, "y", 3)
    assert not np.array_equal(one.halves, third.halves)


def test_the_same_points_give_the_same_lines_in_whatever_results_they_stand(tmp_path):
    clips, held = clips_of(), [3.0, 2.0, 1.0, 4.0]
    scores = noise(4, clips)
    add(tmp_path / "stack", scores, clips, held=held)
    for number in (2, 0, 3, 1):
        one = {"held": [held[number]], "values": [number]}
        add(tmp_path / "single", scores[[number]], clips, **one)
    assert told(tmp_path / "stack") == told(tmp_path / "single")
    assert told(tmp_path / "stack") == told(tmp_path / "stack")


def test_of_equal_settings_the_first_by_signature_counts(tmp_path):
    clips = clips_of()
    path = add(tmp_path, np.repeat(noise(1, clips), 5, axis=0), clips, held=[1.0] * 5)
    line, *_ = told(tmp_path)
    first = min(row["signature"] for row in ledger.read(path).rows)
    assert (line["signatures"], line["label_free_signatures"]) == (first, first)


def test_epochs_are_chosen_too_and_seeds_are_not(tmp_path):
    clips = clips_of()
    for epochs in (10, 20, 30):
        add(tmp_path, noise(4, clips, epochs), clips, seeds=2, epochs=epochs)
    line, *_ = told(tmp_path)
    assert (line["chosen_among"], line["seeds"]) == (6, 2)


def test_held_out_clips_choose_by_the_mean_over_seeds(tmp_path):
    clips = clips_of()
    path = add(tmp_path, noise(6, clips), clips, seeds=2, held=[1, 8, 4, 4, 3, 6])
    line, *_ = told(tmp_path)
    rows = ledger.read(path).rows
    assert line["label_free_signatures"] == " ".join(sorted(row["signature"] for row in rows[2:4]))
    assert line["label_free"] == pytest.approx(rows[2]["auc"] / 2 + rows[3]["auc"] / 2, abs=1e-12)
    assert line["label_free_by"] == "recon_l1"


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({}, "train with windows.val_split=random_clips"),
        ({"held": [1, None]}, "1 of 2 points lack it: train with windows.val_split=random_clips"),
        ({"held": [1, 2], "vary": "features.mels"}, "no common measure: features.mels varies"),
        ({"held": [1, 2], "vary": "windows.val_seed"}, "common measure: windows.val_seed varies"),
    ],
)
def test_a_label_free_winner_that_there_is_not_says_why(tmp_path, capsys, other, why):
    clips = clips_of()
    add(tmp_path, noise(2, clips), clips, **other)
    line, *_ = told(tmp_path)
    assert (line["label_free"], line["gap_label_free"]) == (None, None)
    assert line["label_free_by"].endswith(why)
    shown(tmp_path, capsys, "--markdown", str(tmp_path / "a.md"))
    assert why in (tmp_path / "a.md").read_text()


@pytest.mark.parametrize(("batches", "found"), [((512, 16, 32), True), ((512, 32, 64), False)])
def test_the_models_own_settings_are_found_where_the_grid_has_them(tmp_path, batches, found):
    config = compose.compose(["model=ganomaly"])
    usual = {axis: config[axis] for axis in ("lr", "beta1", "latent", "init", "dropout")}
    assert (config.batch, config.epochs, config.model.primary) == (16, 10, "recon_l1")
    clips = clips_of()
    shared = {"primary": "recon_l1", "usual": usual}
    path = add(tmp_path, noise(3, clips), clips, values=batches, **shared)
    add(tmp_path, noise(3, clips, 1), clips, values=batches, epochs=20, **shared)
    line, *_ = told(tmp_path)
    assert line["default"] == (ledger.read(path).rows[1]["auc"] if found else None)


def test_a_section_that_cannot_be_halved_is_named_and_in_no_number(tmp_path):
    clips, small = clips_of(sections=("00",)), clips_of(sections=("04",), anomaly=1)
    both = {key: np.concatenate([clips[key], small[key]]) for key in clips}
    scores = noise(9, both)
    add(tmp_path / "both", scores, both)
    add(tmp_path / "one", scores[:, : len(clips["clip"])], clips)
    (two, *_), (one, *_) = told(tmp_path / "both"), told(tmp_path / "one")
    assert two["notes"] == (
        "id_04 left out: 20 normal, 1 anomaly clips; halves need two of each"
    )  # fmt: skip
    assert {**two, "notes": ""} == {**one, "notes": ""}


def test_a_machine_type_without_halves_is_undefined_and_in_no_mean(tmp_path):
    clips, unlabelled = clips_of(), clips_of(anomaly=0)
    add(tmp_path, noise(3, clips), clips)
    add(tmp_path, noise(3, unlabelled), unlabelled, machine_type="pump", data="pump-data")
    fan, pump, weighted, plain = told(tmp_path)
    assert [pump[key] for key in COLUMNS] == [None] * 3
    assert "id_00 left out: 20 normal, 0 anomaly" in pump["notes"]
    assert weighted["split_half"] == pytest.approx(fan["split_half"], abs=1e-12)
    assert (weighted["notes"], plain["notes"]) == ("undefined: pump", "undefined: pump")


def test_means_over_machine_types_are_weighted_by_clips_and_plain(tmp_path):
    clips, few = clips_of(), clips_of(sections=("00",))
    add(tmp_path, noise(5, clips), clips, held=range(5))
    add(tmp_path, noise(5, few), few, held=range(5), machine_type="pump", data="pump-data")
    add(tmp_path, noise(5, few), few, model="egbad", machine_type="pump", data="pump-data")
    fan, pump, weighted, plain = [one for one in told(tmp_path) if one["model"] == "ganomaly"]
    for key in ("auc", "pauc", "in_halves", "split_half", "label_free", "gap_split_half"):
        assert weighted[key] == pytest.approx((2 * fan[key] + pump[key]) / 3, abs=1e-12)
        assert plain[key] == pytest.approx((fan[key] + pump[key]) / 2, abs=1e-12)
    assert (weighted["machine_type"], weighted["clips"]) == ("weighted mean", 150)
    assert 0 < plain["split_half_sd"] < max(fan["split_half_sd"], pump["split_half_sd"])
    notes = {one["notes"] for one in told(tmp_path) if one["model"] == "egbad"}
    assert "missing: fan" in notes


def test_scores_that_cannot_be_read_are_named_and_the_others_count(tmp_path):
    clips = clips_of()
    good = noise(3, clips)
    add(tmp_path, good, clips)
    path = add(tmp_path, noise(2, clips), clips, epochs=20)
    beside = path.with_name("epochs_00020.scores.npz")
    beside.write_bytes(beside.read_bytes()[:-1] + b"x")
    line, *_ = told(tmp_path)
    assert line["chosen_among"] == 3
    assert line["notes"].startswith(f"2 points of 1 results not counted, the first: {beside}")


def test_results_of_one_data_that_list_other_clips_are_not_mixed(tmp_path):
    clips = clips_of()
    add(tmp_path, noise(3, clips), clips)
    turned = {key: column[::-1] for key, column in clips.items()}
    add(tmp_path, noise(2, turned), turned, epochs=20)
    line, *_ = told(tmp_path)
    assert line["chosen_among"] == 3
    assert "lists other clips than another result of the same data" in line["notes"]


def test_without_two_settings_nothing_was_chosen_and_that_is_said(tmp_path, capsys):
    clips = clips_of()
    add(tmp_path, noise(2, clips), clips, seeds=2)
    text = shown(tmp_path, capsys, code=2)
    assert "no model among 2 points has two settings on one machine type" in text


def test_a_folder_without_results_says_how_to_make_one(tmp_path, capsys):
    assert "no results under" in shown(tmp_path, capsys)


def test_the_board_prints_and_writes_the_lines(tmp_path, capsys):
    clips = clips_of()
    add(tmp_path, noise(8, clips), clips, held=range(8))
    files = {kind: tmp_path / f"a.{kind}" for kind in ("csv", "markdown")}
    options = [word for kind, path in files.items() for word in (f"--{kind}", str(path))]
    text = shown(tmp_path, capsys, *options)
    line, *_ = told(tmp_path)
    assert f"{line['split_half']:.4f} ± {line['split_half_sd']:.4f}" in text
    assert "split half: chosen on one half of the test clips, judged on the other" in text
    with open(files["csv"], newline="") as file:
        (first, *_) = csv.DictReader(file)
    assert float(first["gap_split_half"]) == line["gap_split_half"]
    assert f"| {line['label_free']:.4f} |" in files["markdown"].read_text()


def test_conditions_hold_before_anything_is_chosen(tmp_path):
    clips = clips_of()
    for epochs in (10, 20):
        add(tmp_path, noise(4, clips, epochs), clips, epochs=epochs)
    lines = told(tmp_path, where=["epochs=20"])
    assert lines[0]["chosen_among"] == 4


@pytest.mark.parametrize("option", [["--intervals"], ["--compare", "model=a", "model=b"]])
def test_what_speaks_of_single_lines_is_refused_beside_it(tmp_path, capsys, option):
    assert board.main([str(tmp_path), "--by", "selection", *option]) == 2
    assert "--by selection takes neither --intervals nor --compare" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--by", "selection"], ["--intervals"]])
@pytest.mark.parametrize("other", [["--score", "latent"], ["--pooled"]])
def test_other_areas_are_refused_where_clip_scores_are_read(tmp_path, capsys, option, other):
    assert board.main([str(tmp_path), *other, *option]) == 2
    assert "speak of each point's primary score only" in capsys.readouterr().err
