import logging
import os
import shutil
import sys

import pytest
from small_plant import make

from asdgan._system.files import read_json
from asdgan.data import clips
from asdgan.data.clips import clip_table, fingerprint, machine_types
from asdgan.errors import BadInput

PLANT = (
    "fan/train/normal_id_00_00000000.wav",
    "fan/train/normal_id_06_00000001.wav",
    "fan/test/normal_id_00_00000000.wav",
    "fan/test/anomaly_id_06_00000030.wav",
    "ToyCar/train/normal_id_01_00000000.wav",
    "ToyCar/test/id_01_00000000.wav",
)


@pytest.fixture
def plant(tmp_path):
    make(tmp_path / "dcase" / "dev_data", *PLANT)
    return tmp_path / "dcase"


@pytest.mark.parametrize("below", [".", "dev_data"])
def test_both_layouts_give_the_same_machine_types_names_and_fingerprint(plant, below):
    assert machine_types(plant / below, "dcase2020") == ("ToyCar", "fan")
    table = clip_table(plant / below, "dcase2020", "fan")
    assert [clip.name for clip in table] == sorted(name for name in PLANT if "fan" in name)
    assert fingerprint(table, None) == fingerprint(clip_table(plant, "dcase2020", "fan"), None)


def test_a_name_tells_label_section_and_split(plant):
    anomaly, normal, *train = clip_table(plant, "dcase2020", "fan")
    assert (anomaly.label, anomaly.section, anomaly.split) == ("anomaly", "06", "test")
    assert (normal.label, normal.section, normal.domain) == ("normal", "00", None)
    assert [(clip.label, clip.split) for clip in train] == [("normal", "train")] * 2


def test_an_evaluation_name_without_label_is_unknown(plant):
    test, _ = clip_table(plant, "dcase2020", "ToyCar")
    assert (test.label, test.section) == ("unknown", "01")


def test_hidden_files_and_litter_are_passed_over(plant):
    names = (
        "._normal_id_00_00000000.wav",
        ".DS_Store",
        "Thumbs.db",
        "__MACOSX/x.wav",
        "notes.txt",
    )
    before = clip_table(plant, "dcase2020", "fan")
    make(plant / "dev_data" / "fan" / "train", *names)
    assert clip_table(plant, "dcase2020", "fan") == before


def test_a_missing_root_is_named_with_the_nearest_folder(tmp_path):
    with pytest.raises(
        BadInput, match=f"gone/deep does not exist; the nearest folder is {tmp_path}"
    ):
        machine_types(tmp_path / "gone" / "deep", "dcase2020")


def test_a_file_as_root_is_refused(tmp_path):
    make(tmp_path, "fan.zip")
    with pytest.raises(BadInput, match=r"fan\.zip is a file, not a folder"):
        machine_types(tmp_path / "fan.zip", "dcase2020")


def test_an_empty_root_says_where_to_unpack(tmp_path):
    with pytest.raises(BadInput, match="found nothing; unpack the release to"):
        machine_types(tmp_path, "dcase2020")


@pytest.mark.parametrize("wrong", ["..", "dev_data/fan", "dev_data/fan/train"])
def test_a_root_at_the_wrong_level_is_told_the_right_one(plant, wrong):
    right = plant if wrong == ".." else plant / "dev_data"
    with pytest.raises(BadInput, match=rf"did you mean {right.resolve()}\?"):
        machine_types((plant / wrong).resolve(), "dcase2020")


def test_an_unknown_release_is_told_the_nearest(plant):
    with pytest.raises(
        BadInput, match=r"no release 'dcase20020'; known: .*did you mean 'dcase2020'\?"
    ):
        machine_types(plant, "dcase20020")


def test_an_unknown_machine_type_is_told_those_there_and_the_nearest(plant):
    with pytest.raises(BadInput, match=r"'fna'; there: ToyCar, fan; did you mean 'fan'\?"):
        clip_table(plant, "dcase2020", "fna")


def test_a_machine_type_without_train_folder_is_refused(plant):
    shutil.rmtree(plant / "dev_data" / "fan" / "train")
    with pytest.raises(BadInput, match=r"fan: no training folder, 'train' in .*; it has: 'test'"):
        clip_table(plant, "dcase2020", "fan")


def test_a_train_folder_without_wavs_says_what_it_holds(plant):
    shutil.rmtree(plant / "dev_data" / "fan" / "train")
    make(plant / "dev_data" / "fan" / "train", "a.flac", "b.flac", "c.txt")
    with pytest.raises(BadInput, match=r"no wav in .*found: 2 '\.flac', 1 '\.txt'"):
        clip_table(plant, "dcase2020", "fan")


def test_an_anomaly_in_train_is_refused(plant):
    make(plant / "dev_data", "fan/train/anomaly_id_00_00000001.wav")
    with pytest.raises(BadInput, match="an anomaly in the training split"):
        clip_table(plant, "dcase2020", "fan")


@pytest.mark.parametrize(
    "name",
    [
        "fan/test/foo.wav",
        "fan/test/normal_id_0_00000000.wav",
        "fan/test/deeper/normal_id_00_00000005.wav",
        "fan/train/id_00_00000005.wav",
        "fan/test/normal_id_00_00000005.wav\n.wav",
        "fan/test/normal_id_\u0660\u0660_00000005.wav",
    ],
)
def test_a_name_that_does_not_parse_is_shown_with_the_expected_form(plant, name):
    make(plant / "dev_data", name)
    with pytest.raises(
        BadInput, match="not a name of release dcase2020, expected 'train/normal_id_00"
    ):
        clip_table(plant, "dcase2020", "fan")


@pytest.mark.parametrize("pair", [("é.wav", "e\u0301.wav"), ("A.wav", "a.wav")])
def test_names_equal_after_normalisation_are_refused(tmp_path, pair):
    make(tmp_path / "train", *pair)
    if len(os.listdir(tmp_path / "train")) == 1:
        pytest.skip("this disk itself takes the two names for one")
    with pytest.raises(BadInput, match="differ only by case or Unicode form"):
        clip_table(tmp_path, "folder", machine_types(tmp_path, "folder")[0])


@pytest.mark.skipif(sys.platform == "darwin", reason="the disk itself refuses such a name")
def test_a_name_that_is_not_utf8_is_refused(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / os.fsdecode(b"\xff.wav")).write_bytes(b"")
    with pytest.raises(BadInput, match="not UTF-8"):
        clip_table(tmp_path, "folder", machine_types(tmp_path, "folder")[0])


def test_a_section_that_training_never_saw_is_a_warning(plant, caplog):
    make(plant / "dev_data", "fan/test/normal_id_04_00000000.wav")
    with caplog.at_level(logging.WARNING):
        clip_table(plant, "dcase2020", "fan")
    assert caplog.messages == ["fan: sections only in test: 04"]


@pytest.mark.parametrize("link", ["fan/train/normal_id_00_00000007.wav", "fan/train/more"])
def test_a_link_out_of_the_root_is_refused(plant, tmp_path, link):
    make(tmp_path / "outside", "normal_id_00_00000007.wav")
    target = tmp_path / "outside" / ("" if link.endswith("more") else "normal_id_00_00000007.wav")
    (plant / "dev_data" / link).symlink_to(target)
    with pytest.raises(BadInput, match="leaves the data root"):
        clip_table(plant, "dcase2020", "fan")


def test_a_machine_type_that_is_a_link_out_of_the_root_is_refused(plant, tmp_path):
    make(tmp_path / "outside", "train/normal_id_00_00000007.wav")
    (plant / "dev_data" / "pump").symlink_to(tmp_path / "outside")
    with pytest.raises(BadInput, match="leaves the data root"):
        clip_table(plant, "dcase2020", "pump")


def test_a_link_to_nothing_is_refused(plant):
    (plant / "dev_data/fan/train/normal_id_00_00000007.wav").symlink_to(plant / "gone.wav")
    with pytest.raises(BadInput, match=r"is a link to .*gone\.wav, where nothing is"):
        clip_table(plant, "dcase2020", "fan")


def test_a_loop_of_folders_ends_and_counts_each_clip_once(tmp_path):
    make(tmp_path / "train", "z/a.wav", "z/b.wav")
    (tmp_path / "train" / "z" / "loop").symlink_to(tmp_path / "train")
    (tmp_path / "train" / "again").symlink_to(tmp_path / "train" / "z")
    table = clip_table(tmp_path, "folder", machine_types(tmp_path, "folder")[0])
    assert [clip.name for clip in table] == ["train/z/a.wav", "train/z/b.wav"]


def test_a_pipe_that_is_called_wav_is_refused(tmp_path):
    (tmp_path / "train").mkdir()
    os.mkfifo(tmp_path / "train" / "a.wav")
    with pytest.raises(BadInput, match="is a pipe, but a wav file is expected"):
        clip_table(tmp_path, "folder", machine_types(tmp_path, "folder")[0])


def test_folder_takes_its_machine_type_from_its_own_name_made_safe(tmp_path):
    make(tmp_path / "pump 3 (hall ü)", "train/a.wav")
    assert machine_types(tmp_path / "pump 3 (hall ü)", "folder") == ("pump_3__hall___",)


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("normal/a.wav", "normal"),
        ("day 2/Anomaly/a.WAV", "anomaly"),
        ("abnormal/0.wav", "anomaly"),
        ("normal_12.wav", "normal"),
        ("anomaly-12.wav", "anomaly"),
        ("normalised.wav", "unknown"),
        ("a_normal.wav", "unknown"),
    ],
)
def test_folder_reads_a_label_from_a_folder_or_the_first_word(tmp_path, name, label):
    make(tmp_path / "lathe", "train/x/y.wav", f"test/{name}")
    test, train = clip_table(tmp_path / "lathe", "folder", "lathe")
    assert (test.label, test.section, train.label) == (label, "00", "normal")


def test_folder_refuses_a_test_clip_that_is_called_both(tmp_path):
    make(tmp_path / "lathe", "train/y.wav", "test/normal/anomaly_3.wav")
    with pytest.raises(BadInput, match="both normal and anomaly"):
        clip_table(tmp_path / "lathe", "folder", "lathe")


@pytest.mark.parametrize("name", ["anomaly_1.wav", "anomaly/1.wav", "ABNORMAL/1.wav"])
def test_folder_refuses_an_anomaly_in_train(tmp_path, name):
    make(tmp_path / "lathe", "train/y.wav", f"train/{name}")
    with pytest.raises(BadInput, match="an anomaly in the training split"):
        clip_table(tmp_path / "lathe", "folder", "lathe")


def test_folder_with_only_normal_trains_on_it_and_warns(tmp_path, caplog):
    make(tmp_path / "lathe", "normal/a.wav", "normal/b.wav")
    table = clip_table(tmp_path / "lathe", "folder", "lathe")
    assert {(clip.split, clip.label) for clip in table} == {("train", "normal")}
    assert "no test clips" in caplog.text


def test_folder_refuses_two_training_folders(tmp_path):
    make(tmp_path / "lathe", "normal/a.wav", "train/b.wav")
    with pytest.raises(
        BadInput, match="more than one training folder, keep one of 'train' or 'normal'"
    ):
        clip_table(tmp_path / "lathe", "folder", "lathe")


def test_folder_at_the_wrong_level_is_told_the_right_one(tmp_path):
    make(tmp_path / "lathe", "train/a.wav")
    with pytest.raises(BadInput, match=r"did you mean .*/lathe\?"):
        machine_types(tmp_path, "folder")


def test_machine_types_that_cannot_be_part_of_a_path_are_refused(tmp_path):
    make(tmp_path, "my fan/train/normal_id_00_00000000.wav")
    with pytest.raises(BadInput, match=r"machine type 'my fan' .* rename the folder"):
        machine_types(tmp_path, "dcase2020")


def test_fingerprint_depends_on_names_and_contents_only(plant, tmp_path):
    table = clip_table(plant, "dcase2020", "fan")
    moved = shutil.copytree(plant, tmp_path / "elsewhere")
    again = clip_table(moved, "dcase2020", "fan")
    assert fingerprint(table, None) == fingerprint(again[::-1], None)
    os.rename(again[0].path, again[0].path.with_name("anomaly_id_06_00000031.wav"))
    assert fingerprint(clip_table(moved, "dcase2020", "fan"), None) != fingerprint(table, None)


def test_fingerprint_sees_a_changed_byte_through_its_cache(plant, tmp_path):
    table, cache = clip_table(plant, "dcase2020", "fan"), tmp_path / "digests.json"
    before = fingerprint(table, cache)
    table[0].path.write_bytes(table[0].path.read_bytes()[::-1])
    assert fingerprint(table, cache) == fingerprint(table, None) != before


def test_fingerprint_reads_no_clip_that_its_cache_knows(plant, tmp_path, monkeypatch):
    table, cache = clip_table(plant, "dcase2020", "fan"), tmp_path / "digests.json"
    before = fingerprint(table, cache)
    monkeypatch.setattr(clips, "sha256_of", lambda path: pytest.fail(f"{path} was read"))
    assert fingerprint(table, cache) == before


@pytest.mark.parametrize("content", [b"", b"{}", b"not json", b'{"sha256": "0"}'])
def test_a_damaged_cache_is_ignored_and_rebuilt(plant, tmp_path, content):
    table, cache = clip_table(plant, "dcase2020", "fan"), tmp_path / "digests.json"
    cache.write_bytes(content)
    assert fingerprint(table, cache) == fingerprint(table, None)
    assert len(read_json(cache)) == len(table)


def test_a_cache_that_cannot_be_written_is_no_failure(plant, tmp_path, caplog):
    table = clip_table(plant, "dcase2020", "fan")
    make(tmp_path, "file")
    assert fingerprint(table, tmp_path / "file" / "digests.json") == fingerprint(table, None)
    assert "not kept (File exists), so clips are read again" in caplog.text


def test_a_clip_that_vanished_is_named(plant):
    table = clip_table(plant, "dcase2020", "fan")
    table[0].path.unlink()
    with pytest.raises(BadInput, match=r"anomaly_id_06_00000030\.wav: was there when"):
        fingerprint(table, None)


def test_the_genuine_names_of_every_machine_type_parse(shared, tmp_path):
    for path in (shared / "data" / "dcase2020_clips").rglob("*.flac"):
        name = path.relative_to(shared / "data" / "dcase2020_clips").with_suffix(".wav").as_posix()
        make(tmp_path, name, f"dev_data/{name.split('/')[1]}/train/normal_id_00_99999999.wav")
    types = machine_types(tmp_path, "dcase2020")
    assert types == ("ToyCar", "ToyConveyor", "fan", "pump", "slider", "valve")
    tables = [clip_table(tmp_path, "dcase2020", name) for name in types]
    assert sum(clip.split == "test" for table in tables for clip in table) == 93
