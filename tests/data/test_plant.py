"""The demo plant: the same each time, named as the release names, told apart by sound only."""

import re
import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from omegaconf import OmegaConf
from sklearn.metrics import roc_auc_score

from asdgan._system.files import read_json
from asdgan.data import clips
from asdgan.data.demo import plant as demo
from asdgan.data.demo import sounds
from asdgan.errors import BadInput

SMALL = demo.Plant(seed=0, seconds=2, sample_rate=16000, ids=2, train_clips=2, test_clips=3)
TINY = replace(SMALL, seconds=1, ids=1, train_clips=1, test_clips=1)
NAME = re.compile(r"dev_data/(\w+)/(train/normal|test/normal|test/anomaly)_id_(\d\d)_\d{8}\.wav")


@pytest.fixture(scope="module")
def plant(tmp_path_factory):
    return demo.make(SMALL, tmp_path_factory.mktemp("demo"), None)


@pytest.fixture
def tiny(tmp_path):
    return demo.make(TINY, tmp_path, None)


def wavs(home):
    return {path.relative_to(home).as_posix(): path for path in home.rglob("*.wav")}


def contents(home):
    return {name: path.read_bytes() for name, path in wavs(home).items()}


def moments(machine_type, label="anomaly"):
    """The plan's clips of one type and label, at the default sizes."""
    full = replace(SMALL, seconds=2.0, ids=3, train_clips=3, test_clips=10)
    plan = (one for one in demo._plan(full) if one.machine_type == machine_type)
    return full, [one for one in plan if one.split == "test" and one.label == label]


def test_same_settings_give_the_same_bytes(tiny, tmp_path):
    again = demo.make(TINY, tmp_path / "again", None)
    assert again.name == tiny.name
    assert contents(again) == contents(tiny)


def test_another_seed_gives_other_bytes_in_every_clip(tiny, tmp_path):
    other = contents(demo.make(replace(TINY, seed=1), tmp_path, None))
    first = contents(tiny)
    assert other.keys() == first.keys()
    assert all(other[name] != first[name] for name in first)


def test_no_two_clips_are_alike(plant):
    assert len(set(contents(plant).values())) == demo.count(SMALL)


def test_names_are_those_of_dcase_2020(plant):
    matches = [NAME.fullmatch(name) for name in wavs(plant)]
    assert all(matches)
    per_group = Counter(match.groups() for match in matches if match)
    assert len(per_group) == 6 * 3 * SMALL.ids
    assert all(number == (2 if "train" in group[1] else 3) for group, number in per_group.items())


def test_the_release_reader_finds_every_clip(plant):
    types = clips.machine_types(plant, "demo")
    assert set(types) == set(sounds.SECTIONS)
    found = sum(len(clips.clip_table(plant, "demo", one)) for one in types)
    assert found == demo.count(SMALL) == len(wavs(plant))


def test_wavs_are_16_bit_mono_of_equal_length(plant):
    forms = {
        (info.format, info.subtype, info.channels, info.samplerate, info.frames)
        for info in map(soundfile.info, wavs(plant).values())
    }
    assert forms == {("WAV", "PCM_16", 1, 16000, 32000)}


def test_no_clip_reaches_full_scale_or_holds_dc(plant):
    for path in wavs(plant).values():
        samples = soundfile.read(path)[0]
        assert np.abs(samples).max() < 0.99
        assert np.abs(samples.mean()) < 0.02 * samples.std()


def test_a_whole_plant_is_used_again_untouched(tiny, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in tiny.rglob("*")}
    assert demo.make(TINY, tmp_path, pytest.fail) == tiny
    assert {path: path.stat().st_mtime_ns for path in tiny.rglob("*")} == before


def test_each_clip_made_is_told_once(tmp_path):
    told = []
    demo.make(TINY, tmp_path, told.append)
    assert told == [1] * demo.count(TINY)


def delete(path):
    path.unlink()


def cut(path):
    path.write_bytes(path.read_bytes()[:-2])


def alter(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def add(path):
    shutil.copy(path, path.with_name("normal_id_00_00000099.wav"))


def unsign(path):
    (path.parents[3] / demo.MANIFEST).write_text("{}")


@pytest.mark.parametrize("damage", [delete, cut, alter, add, unsign])
def test_a_damaged_plant_is_made_anew(tiny, tmp_path, damage):
    before = contents(tiny)
    damage(tiny / "dev_data/fan/train/normal_id_00_00000000.wav")
    made = []
    assert demo.make(TINY, tmp_path, made.append) == tiny
    assert len(made) == demo.count(TINY)
    assert contents(tiny) == before


def test_a_cut_leaves_no_plant_and_the_next_call_makes_it(tmp_path):
    def pull_the_plug(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        demo.make(TINY, tmp_path, pull_the_plug)
    assert not [path for path in tmp_path.iterdir() if not path.name.startswith(".")]
    assert len(wavs(demo.make(TINY, tmp_path, None))) == demo.count(TINY)


def test_the_manifest_names_every_wav(tiny):
    assert read_json(tiny / demo.MANIFEST)["clips"].keys() == wavs(tiny).keys()


def test_ten_and_ten_point_nought_seconds_are_one_plant():
    assert demo._key(replace(TINY, seconds=10)) == demo._key(replace(TINY, seconds=10.0))


def test_more_clips_leave_the_first_ones_as_they_were():
    few, many = replace(SMALL, test_clips=1), replace(SMALL, test_clips=3)
    clip = next(one for one in demo._plan(few) if one.label == "anomaly")
    ours, theirs = (demo.sound_of(each, clip, faulty=True) for each in (few, many))
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("machine_type", sounds.SECTIONS)
def test_a_fault_changes_the_sound_and_not_the_moment_beneath(machine_type):
    full, planned = moments(machine_type)
    for clip in planned[: len(sounds.FAULTS[machine_type])]:
        harmed, unharmed = (demo.sound_of(full, clip, faulty=faulty) for faulty in (True, False))
        change = np.std(harmed - unharmed) / np.std(unharmed)
        assert 0.005 < change < 1.0
        assert np.corrcoef(harmed, unharmed)[0, 1] > 0.6


@pytest.mark.parametrize("machine_type", sounds.SECTIONS)
def test_loudness_does_not_tell_normal_from_anomaly(machine_type):
    areas = []
    full, harmed = moments(machine_type)
    _, normal = moments(machine_type, "normal")
    for section in range(3):
        own = [one for one in normal + harmed if one.section == section]
        level = [np.std(demo.sound_of(full, one, faulty=one.label == "anomaly")) for one in own]
        areas.append(roc_auc_score([one.label == "anomaly" for one in own], level))
    assert 0.3 < np.mean(areas) < 0.7


def test_every_fault_is_described():
    assert sounds.PLANTED.keys() == sounds.FAULTS.keys() == sounds.SECTIONS.keys()
    for machine_type, faults in sounds.FAULTS.items():
        assert all(f"{kind.capitalize()}:" in sounds.PLANTED[machine_type] for kind in faults)


def test_the_config_makes_a_plant_of_414_clips(request):
    config = OmegaConf.load(request.config.rootpath / "conf/dataset/demo.yaml")
    names = ("seconds", "ids", "train_clips", "test_clips")
    settings = {name: config[name] for name in names}
    assert demo.count(demo.Plant(seed=config.plant_seed, sample_rate=16000, **settings)) == 414


@pytest.mark.parametrize(
    ("setting", "value", "rule"),
    [
        ("seed", -1, "a whole number from 0"),
        ("seconds", 0.5, "a number from 1 to 60"),
        ("seconds", float("nan"), "a number from 1 to 60"),
        ("seconds", True, "a number from 1 to 60"),
        ("sample_rate", 8000, "16000 would do"),
        ("ids", 4, "a whole number from 1 to 3"),
        ("ids", 2.0, "a whole number from 1 to 3"),
        ("train_clips", 0, "a whole number from 1 to 10000"),
        ("test_clips", 10**6, "a whole number from 1 to 10000"),
    ],
)
def test_a_setting_that_breaks_its_rule_is_refused(setting, value, rule):
    with pytest.raises(BadInput, match=re.escape(f"{setting} is {value!r}; {rule}")):
        replace(SMALL, **{setting: value})
