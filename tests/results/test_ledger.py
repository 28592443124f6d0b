import json
import math
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from asdgan._system.files import read_json, write_json
from asdgan.errors import Damaged
from asdgan.results import ledger
from asdgan.results.failures import failures_in, write_failure
from asdgan.results.ledger import find, flatten, read, read_all, read_scores, signature, write

DATA = "d" * 64


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)  # no power cut is tried here


def row(name="0" * 16, epochs=10, **other):
    areas = {"auc": 0.75, "pauc": 0.5}
    return {
        "signature": name,
        "model": "ganomaly",
        "recipe": 1,
        "release": "dcase2020",
        "data": DATA,
        "machine_type": "fan",
        "settings": {"batch": 512, "features.mels": 128},
        "seed": 0,
        "epochs": epochs,
        "selection": {"settings": "named", "checkpoint": "last"},
        "primary": "latent",
        **areas,
        "sections": {"00": {**areas, "normal": 1, "anomaly": 1}},
        "clips": 2,
        **other,
    }


def scores(rows=1):
    return {
        "clip": np.array(["fan/test/normal_id_00_00000000.wav", "fan/test/ü.wav"]),
        "section": np.array(["00", "00"]),
        "label": np.array(["normal", "anomaly"]),
        "score/latent": np.arange(2.0 * rows).reshape(rows, 2),
    }


def store(folder, *rows, weights=b"weights", config="seed: 0\n"):
    rows = rows or (row(),)
    return write(
        folder,
        epochs=rows[0]["epochs"],
        rows=rows,
        scores=scores(len(rows)),
        weights=weights,
        config=config,
    )


def flip(path, place=-3):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def test_a_result_comes_back_as_it_was_written(tmp_path):
    result = read(store(tmp_path / "run"))
    assert (result.epochs, list(result.rows)) == (10, [row()])
    assert sorted(result.files) == [
        "config.yaml",
        "epochs_00010.safetensors",
        "epochs_00010.scores.npz",
    ]
    stored = read_scores(result)
    assert all((stored[name] == array).all() for name, array in scores().items())


def test_rows_of_a_stack_come_back_as_they_were_written(tmp_path):
    wide = row(settings={"batch": 16, "lr": 1, "drop": None}, flags=["low"])
    rows = (wide, row("1" * 16, settings={"batch": 16, "lr": 1.0}), row("2" * 16, auc=None))
    result = read(store(tmp_path, *rows))
    assert [json.dumps(one, sort_keys=True) for one in result.rows] == [
        json.dumps(one, sort_keys=True) for one in rows
    ]


def test_what_all_rows_of_a_stack_say_is_stored_once(tmp_path):
    settings = [{"batch": 16, "mels": 128, "lr": lr} for lr in (0.1, 0.2, True, 1, 1.0)]
    rows = [row(f"{at:016d}", settings=one) for at, one in enumerate(settings)]
    path = store(tmp_path, *rows)
    result = read(path)
    assert [set(own) for own in result.own] == [{"signature", "settings"}] * 5
    assert [own["settings"] for own in result.own] == [{"lr": one["lr"]} for one in settings]
    assert path.read_text().count("mels") == path.read_text().count(DATA) == 1


def test_weights_may_be_left_out(tmp_path):
    result = read(store(tmp_path, weights=None))
    assert not [name for name in result.files if name.endswith("safetensors")]


def test_a_result_is_written_once(tmp_path):
    before = store(tmp_path).read_bytes()
    with pytest.raises(
        FileExistsError, match="holds a finished result already, and results are wri"
    ):
        store(tmp_path, row(auc=0.9))
    assert (tmp_path / "epochs_00010.json").read_bytes() == before


def test_the_json_is_written_last(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger, "write_json", lambda *_: pytest.fail("power cut"))
    with pytest.raises(pytest.fail.Exception, match="power cut"):
        store(tmp_path)
    assert read_all(tmp_path) == ([], [])
    monkeypatch.undo()
    assert read(store(tmp_path)).epochs == 10


@pytest.mark.parametrize(
    "name", ["config.yaml", "epochs_00010.safetensors", "epochs_00010.scores.npz"]
)
@pytest.mark.parametrize("harm", [flip, os.unlink])
def test_a_file_beside_it_that_changed_or_vanished_is_damage(tmp_path, name, harm):
    path = store(tmp_path)
    harm(tmp_path / name)
    with pytest.raises(Damaged, match=name):
        read(path)
    assert read_all(tmp_path, verify=True)[0] == []
    assert find(tmp_path, "0" * 16) is None


def test_scores_that_changed_are_never_given(tmp_path):
    result = read(store(tmp_path))
    flip(tmp_path / "epochs_00010.scores.npz", 200)
    with pytest.raises(Damaged, match="sha256 is not the one stated"):
        read_scores(result)


def test_a_damaged_result_is_moved_aside_and_written_anew(tmp_path):
    path = store(tmp_path)
    for aside in ("epochs_00010.json.damaged", "epochs_00010.json.2.damaged"):
        flip(path)
        damaged = path.read_bytes()
        assert read(store(tmp_path)).rows == (row(),)
        assert (tmp_path / aside).read_bytes() == damaged


def test_readings_of_one_training_share_a_folder(tmp_path):
    first, second = (
        store(tmp_path),
        store(tmp_path, row("1" * 16, epochs=20), config="epochs: 20\n"),
    )
    assert read(first).files["config.yaml"] != read(second).files["epochs_00020.config.yaml"]
    assert [result.epochs for result in read_all(tmp_path)[0]] == [10, 20]


def test_two_writers_of_one_result_leave_one_whole(tmp_path):
    outcomes = []

    def attempt(auc):
        try:
            outcomes.append(store(tmp_path, row(auc=auc), weights=os.urandom(100_000)))
        except FileExistsError:
            outcomes.append(None)

    writers = [threading.Thread(target=attempt, args=(place / 8,)) for place in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert sorted(map(bool, outcomes)) == [False] * 7 + [True]
    assert read(tmp_path / "epochs_00010.json").epochs == 10


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([row(auc=float("nan"))], "'auc' is nan"),
        ([row(auc=1.5)], "'auc' is 1.5"),
        ([row(losses={"train/loss_g": [float("inf")]})], "not JSON compliant"),
        ([row(name="fan")], "signature is 'fan'"),
        ([row(machine_type=None)], "'machine_type' is None"),
        ([row(), row(epochs=20)], "20 epochs in a result of 10"),
        ([row(), row()], "2 rows .* with 1 signatures"),
        ([{"signature": "0" * 16, "epochs": 10}], "a row has no 'model'"),
    ],
)
def test_a_row_that_is_none_is_refused_and_nothing_is_written(tmp_path, bad, message):
    with pytest.raises(ValueError, match=message):
        store(tmp_path / "run", *bad)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("score/latent", np.zeros((2, 2)), r"'score/latent' has shape \(2, 2\) .* not \(1, 2\)"),
        ("section", np.array(["00"]), r"'section' has shape \(1,\)"),
        ("train_score/latent", np.zeros((1, 3)), r"shape \(1, 3\) .* not \(1, 0\)"),
        ("label", np.array(["normal", None], dtype=object), "type object"),
    ],
)
def test_arrays_that_do_not_fit_the_rows_are_refused(tmp_path, name, array, message):
    wrong = {**scores(), name: array}
    with pytest.raises(ValueError, match=message):
        write(tmp_path, epochs=10, rows=[row()], scores=wrong, weights=None, config="")


def test_scores_without_clip_names_are_refused(tmp_path):
    arrays = {"score/latent": np.zeros((1, 2))}
    with pytest.raises(ValueError, match="scores lack clip, label, section"):
        write(tmp_path, epochs=10, rows=[row()], scores=arrays, weights=None, config="")


def test_listing_reports_what_is_no_result_with_its_reason(tmp_path):
    store(tmp_path / "a")
    flip(store(tmp_path / "b"), -10)  # inside the checksum
    (tmp_path / "b" / "epochs_00099.json").write_text('{"epochs": 99}')
    write_json(tmp_path / "c" / "epochs_00001.json", {"format": 2, "epochs": 1, "files": {}})
    write_json(tmp_path / "d" / "epochs_00001.json", {"format": 1})
    (store(tmp_path / "e").parent / "epochs_00010.safetensors").unlink()
    (tmp_path / "summary.json").write_text("{}")
    results, refused = read_all(tmp_path)
    assert [result.path.parent.name for result in results] == ["a"]
    assert [(path.parent.name, why.split(" ")[0]) for path, why in refused] == [
        ("b", "checksum"),
        ("b", "no"),
        ("c", "has"),
        ("d", "not"),
        ("e", "epochs_00010.safetensors"),
    ]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"shared": []}, "what rows share is list"),
        ({"shared": {"auc": 2}}, "'auc' is 2"),
        ({"rows": [{}]}, "a row has no 'signature'"),
        ({"rows": [7]}, "a row is int"),
        ({"epochs": 20}, "a row of 10 epochs in a result of 20"),
    ],
)
def test_a_sealed_file_whose_rows_are_none_is_damaged(tmp_path, other, message):
    path = store(tmp_path, row(), row("1" * 16))
    write_json(path, {**read_json(path), **other})
    with pytest.raises(Damaged, match=message):
        read(path)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "..", "a/b"])
def test_a_result_cannot_name_a_file_elsewhere(tmp_path, name):
    path = store(tmp_path)
    write_json(path, {**read_json(path), "files": {name: "0" * 64}})
    with pytest.raises(Damaged, match="as a file beside it"):
        read(path)


def test_a_root_that_is_not_there_holds_nothing(tmp_path):
    assert read_all(tmp_path / "gone") == ([], [])
    assert find(tmp_path / "gone", "0" * 16) is None


def test_find_gives_the_row_of_a_signature(tmp_path):
    store(tmp_path / "a")
    path = store(tmp_path / "b", row("1" * 16), row("2" * 16, auc=0.25))
    assert find(tmp_path, "2" * 16) == (path, row("2" * 16, auc=0.25))
    assert find(tmp_path, "3" * 16) is None


def test_find_passes_over_a_damaged_result_to_a_good_one(tmp_path):
    flip(store(tmp_path / "a").with_suffix(".safetensors"))
    good = store(tmp_path / "b")
    assert find(tmp_path, "0" * 16) == (good, row())


def test_a_moved_folder_is_still_a_ledger(tmp_path):
    store(tmp_path / "old" / "run")
    (tmp_path / "old").rename(tmp_path / "new")
    assert find(tmp_path, "0" * 16) == (tmp_path / "new" / "run" / "epochs_00010.json", row())


def test_nested_settings_become_dotted_keys():
    nested = {"model": {"latent": 8, "widths": [1, 2], "extra": {}}, "lr": 0.1}
    flat = {"model.latent": 8, "model.widths": [1, 2], "model.extra": {}, "lr": 0.1}
    assert flatten(nested) == flat == flatten(flat)
    with pytest.raises(ValueError, match=r"two settings are called 'a\.b'"):
        flatten({"a": {"b": 1}, "a.b": 2})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({"a": 1}, {"a": 1.0}),
        ({"a": 0.0}, {"a": -0.0}),
        ({"a": 2**60}, {"a": 2.0**60}),
        ({"a": [1, {"b": 2}]}, {"a": (1.0, {"b": 2.0})}),
        ({"a": {"b": 1}}, {"a.b": 1}),
    ],
)
def test_the_same_settings_have_the_same_signature(one, other):
    assert signature(one, 1, DATA) == signature(other, 1, DATA)


@pytest.mark.parametrize(
    "pair",
    [
        (1, "1"),
        (1, True),
        (0, False),
        (0, None),
        ("", None),
        (1, 2),
        (2**53, 2**53 + 1),
        (0.1, np.nextafter(0.1, 1)),
        ([1], 1),
        ([1, 2], [2, 1]),
        ("é", "e\u0301"),
    ],
)
def test_other_settings_have_another_signature(pair):
    assert signature({"a": pair[0]}, 1, DATA) != signature({"a": pair[1]}, 1, DATA)


def test_recipe_and_data_are_part_of_a_signature():
    names = {signature({}, recipe, data) for recipe in (1, 2) for data in ("a", "b")}
    assert len(names) == 4
    assert all(ledger.SIGNATURE.fullmatch(name) for name in names)


def test_signatures_do_not_change_from_version_to_version():
    assert signature({"batch": 512, "lr": 2e-4, "loss": "bce"}, 1, DATA) == "c9d8affb863776df"


def test_a_setting_that_is_nan_has_no_signature():
    with pytest.raises(ValueError, match="not JSON compliant"):
        signature({"a": float("nan")}, 1, DATA)


def test_the_ledger_imports_nothing_heavy():
    code = "import sys, asdgan.results.ledger as _; "
    code += "print({'torch', 'hydra', 'lightning'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def failed(folder, signatures=("0" * 16,), kind="raised", reason="ValueError: no\n  such  thing"):
    return write_failure(
        folder,
        signatures=signatures,
        kind=kind,
        reason=reason,
        model="ganomaly",
        machine_type="fan",
        settings={"lr": 1e-3},
        losses={"train/loss_g": [0.5, math.nan]},
    )


def test_a_failure_is_listed_with_its_reason_in_one_line_and_is_no_result(tmp_path):
    path = failed(tmp_path / "runs" / "a", ["0" * 16, "1" * 16])
    found, refused = failures_in(tmp_path)
    assert refused == []
    assert ledger.read_all(tmp_path) == ([], [])
    assert [one.path for one in found] == [path]
    assert found[0].signatures == ("0" * 16, "1" * 16)
    assert (found[0].kind, found[0].reason) == ("raised", "ValueError: no such thing")
    assert found[0].settings == {"lr": 1e-3}


def test_a_second_failure_of_a_point_replaces_the_first(tmp_path):
    failed(tmp_path)
    failed(tmp_path, kind="killed", reason="signal 9")
    assert [one.reason for one in failures_in(tmp_path)[0]] == ["signal 9"]


def test_a_damaged_failure_is_reported_and_left_out(tmp_path):
    path = failed(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"raised", b"killed"))
    found, refused = failures_in(tmp_path)
    assert found == []
    assert [one for one, _ in refused] == [path]


@pytest.mark.parametrize("wrong", [{"kind": "bad luck"}, {"signatures": []}])
def test_a_failure_without_kind_or_point_cannot_be_stored(tmp_path, wrong):
    with pytest.raises(ValueError, match="failure of kind"):
        failed(tmp_path, **wrong)


def test_a_signer_gives_the_signatures_that_each_point_has_alone():
    shared = {"lr": 1, "init": "normal", "a.b": [1, 2.0], "z": 'quo"te', "epochs": 3, "ü": None}
    sign = ledger.Signer(shared, 2, "data", ["epochs", "lr", "init"])
    for epochs in (10, 90):
        for lr in (1e-4, 1, 1.0, -0.0):
            for init in ("glorot_uniform", "nor\\mal", "ü"):
                point = {"epochs": epochs, "lr": lr, "init": init}
                assert sign(point) == signature({**shared, **point}, 2, "data")


def test_a_signer_refuses_what_a_signature_refuses():
    sign = ledger.Signer({"lr": 1}, 1, "data", ["lr"])
    with pytest.raises(ValueError, match="Out of range"):
        sign({"lr": math.nan})
