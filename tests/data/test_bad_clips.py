"""What `dataset.bad_clips=skip` leaves out, and that nobody can overlook it."""

import logging
from dataclasses import replace

import pytest
from broken_wavs import CASES, LOGMEL, read
from wav_bytes import RATE, WAV, noise, of

from asdgan import run
from asdgan.config import compose
from asdgan.data import bad_clips as sieve
from asdgan.data import clips
from asdgan.deploy import submission
from asdgan.errors import BadInput
from asdgan.results import ledger
from asdgan.sweep import grid, prepare
from asdgan.training import machine_data

SMALL = replace(LOGMEL, n_fft=256, hop=128, mels=16)
TINY = ("model=dcase_ae", "features.mels=16", "model.hidden_width=16", "batch=64", "epochs=1",
        "trainer.compile=false", "logger=none", "dataset=dcase2020", "machine=fan")  # fmt: skip


def fans(root, **bad):
    """Two sections of fans; `train_normal_00_3=b"..."` adds or replaces a clip."""
    good = [f"{kind}_{section}_{number}" for number in (0, 1) for section in ("00", "02")
            for kind in ("train_normal", "test_normal", "test_anomaly")]  # fmt: skip
    content = {name: of(noise(RATE, seed=at)) for at, name in enumerate(good)}
    for name, data in {**content, **bad}.items():
        split, label, section, number = name.split("_")
        path = root / "dev_data" / "fan" / split / f"{label}_id_{section}_{int(number):08}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def silently(title, total):
    return lambda count=1, note="": None


def config(root, outputs, *overrides, bad_clips="skip"):
    typed = [*TINY, f"dataset.root={root}", f"outputs={outputs}", f"dataset.bad_clips={bad_clips}"]
    return compose.compose([*typed, *overrides])


def listened(root, outputs, *overrides, bad_clips="skip"):
    return machine_data.listen(
        config(root, outputs, *overrides, bad_clips=bad_clips), root, "fan", silently
    )


def sieved(root, outputs, wanted=SMALL, window=1):
    table = clips.clip_table(root, "dcase2020", "fan", clips.Choice(strict=False))
    store = outputs / "verdicts.json"
    counted = []
    found = sieve.sieved(
        table, wanted, window=window, root=root, store=store, on_clip=counted.append
    )
    assert sum(counted) == len(table)
    return found


def test_what_is_left_out_says_what_reading_it_would(tmp_path):
    root, wanted = tmp_path / "lathe", {}
    (root / "train").mkdir(parents=True)
    (root / "train" / "good.wav").write_bytes(of(noise(RATE)))
    for name, case in CASES.items():
        if case.ask is read and case.says.startswith("{path}") and "socket" not in name:
            path = root / "train" / f"{name}.wav"
            case.put(path)
            if path.exists():
                wanted[f"train/{path.name}"] = case.says.removeprefix("{path}: ")
    table = clips.clip_table(root, "folder", "lathe", clips.Choice(strict=False))
    kept, left = sieve.sieved(
        table, LOGMEL, window=5, root=root, store=tmp_path / "v.json", on_clip=lambda _: None
    )
    assert [clip.name for clip in kept] == ["train/good.wav"]
    assert {one.clip.name: one.why for one in left} == wanted


def test_a_link_out_of_the_root_is_left_out_and_never_read(tmp_path, monkeypatch):
    root = fans(tmp_path / "data")
    (tmp_path / "secret.wav").write_bytes(WAV)
    there = root / "dev_data/fan/test/normal_id_00_00000007.wav"
    there.symlink_to(tmp_path / "secret.wav")
    (left,) = sieved(root, tmp_path)[1]
    assert left.clip.path == there
    assert left.why.startswith(f"is a link that leaves the data root, to {tmp_path}/secret.wav")


def test_the_fingerprint_is_that_of_the_clips_that_are_kept(tmp_path):
    whole, fewer = fans(tmp_path / "whole"), fans(tmp_path / "fewer")
    broken = fans(tmp_path / "broken", test_normal_00_1=WAV[:99])
    (fewer / "dev_data/fan/test/normal_id_00_00000001.wav").unlink()
    skipped = listened(broken, tmp_path).data
    assert skipped == listened(fewer, tmp_path, bad_clips="strict").data
    assert skipped != listened(whole, tmp_path).data
    assert listened(whole, tmp_path).data == listened(whole, tmp_path, bad_clips="strict").data


def test_strict_ends_at_the_first_bad_clip(tmp_path):
    broken = fans(tmp_path / "broken", train_normal_00_1=WAV[:99], test_normal_00_1=b"")
    with pytest.raises(BadInput, match=r"id_00_00000001\.wav: cut off: the header promises"):
        listened(broken, tmp_path, bad_clips="strict")


def test_a_planner_and_its_workers_mean_the_same_clips(tmp_path, monkeypatch):
    broken = fans(tmp_path / "broken", test_normal_00_1=WAV[:99], train_normal_02_1=WAV)
    typed = [*TINY, f"dataset.root={broken}", f"outputs={tmp_path}", "dataset.bad_clips=skip"]
    planned, _ = prepare.heard_of(
        grid.expand([*typed, "features.hop=64", "features.n_fft=1024,512,256"])
    )
    monkeypatch.setattr(sieve, "checked_length", lambda path, **_: pytest.fail(f"{path} again"))
    found = [
        listened(broken, tmp_path, f"features.n_fft={n_fft}", "features.hop=64").data
        for n_fft in (1024, 512, 256)
    ]
    assert [heard[0].data for heard in planned.values()] == found
    assert found[0] == found[1] != found[2]  # a clip of 320 samples has a frame of 256


def test_a_verdict_is_kept_until_the_file_changes(tmp_path, monkeypatch):
    root = fans(tmp_path / "data", test_normal_00_1=b"")
    before = sieved(root, tmp_path)
    monkeypatch.setattr(sieve, "checked_length", lambda path, **_: pytest.fail(f"{path} again"))
    assert sieved(root, tmp_path) == before
    assert len(before[1]) == 1
    monkeypatch.undo()
    fans(tmp_path / "data")
    assert sieved(root, tmp_path)[1] == ()


def test_who_is_stopped_goes_on_from_there(tmp_path, monkeypatch):
    root, looked = fans(tmp_path / "data"), []
    table = clips.clip_table(root, "dcase2020", "fan")
    monkeypatch.setattr(sieve, "checked_length", lambda path, **_: looked.append(path) or RATE)

    def ask(on_clip):
        store = tmp_path / "verdicts.json"
        return sieve.sieved(table, SMALL, window=1, root=root, store=store, on_clip=on_clip)

    with pytest.raises(ZeroDivisionError):
        ask(lambda _: 1 / (len(looked) - 5))
    assert ask(lambda _: None) == (table, ())
    assert looked == [clip.path for clip in table]  # each once


def test_what_the_system_refuses_once_is_tried_again(tmp_path, monkeypatch):
    root = fans(tmp_path / "data")

    def refuse(self, *how, **more):
        if self.name == "anomaly_id_00_00000000.wav":
            raise OSError(5, "Input/output error")
        return open(self, *how, **more)

    monkeypatch.setattr("pathlib.Path.open", refuse)
    (left,) = sieved(root, tmp_path)[1]
    assert left.why == "cannot be read (Input/output error); check it and its rights"
    monkeypatch.undo()
    assert sieved(root, tmp_path)[1] == ()


def test_a_clip_is_bad_by_what_is_asked_of_it(tmp_path):
    root = fans(tmp_path / "data", test_normal_00_1=of(noise(9000), rate=48000))
    assert sieved(root, tmp_path)[1][0].why.startswith("sample rate 48000 Hz, but 16000 Hz")
    wanted = replace(SMALL, resample=True)
    assert sieved(root, tmp_path, wanted)[1] == ()
    (short,) = sieved(root, tmp_path, wanted, window=25)[1]
    assert short.why.startswith("24 frames, but one window takes 25")


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ([(split, label, section) for split, label in
          (("train", "normal"), ("test", "normal"), ("test", "anomaly"))
          for section in ("00", "02")], "12 clips,"),
        ([("train", "normal", "00"), ("train", "normal", "02")], "4 train clips,"),
        ([("test", "normal", "02"), ("test", "anomaly", "02")], "4 test clips of section 02,"),
    ],
)  # fmt: skip
def test_a_section_of_bad_clips_alone_is_refused(tmp_path, bad, words):
    named = {f"{'_'.join(one)}_{number}": WAV[:20] for one in bad for number in (0, 1)}
    root = fans(tmp_path / "data", **named)
    sentence = f"fan: nothing is left of {words} because all are bad; the first: {root}.*header"
    with pytest.raises(BadInput, match=sentence):
        sieved(root, tmp_path)


def test_a_run_names_what_it_left_out_and_a_submission_refuses_it(tmp_path, caplog, capsys):
    root = fans(tmp_path / "data", train_normal_00_1=b"", test_anomaly_02_1=WAV[:44])
    with caplog.at_level(logging.WARNING):
        (kept,) = run.run(config(root, tmp_path))
    assert [one for one in caplog.messages if "left out" in one] == [
        f"fan: left out: {root}/dev_data/fan/test/anomaly_id_02_00000001.wav: cut off: the header "
        "promises 640 bytes of audio, the file has 0 (0%); download or unpack it again",
        f"fan: left out: {root}/dev_data/fan/train/normal_id_00_00000001.wav: is empty (0 bytes), "
        "but a wav file is expected; download or unpack it again",
    ]
    assert [tuple(one.values())[:2] for one in ledger.read(kept.path).own[0]["left_out"]] == [
        ("fan/test/anomaly_id_02_00000001.wav", "test"),
        ("fan/train/normal_id_00_00000001.wav", "train"),
    ]
    assert "fan: bad clips left out: 1 of training, 1 of test" in capsys.readouterr().out
    told = [str(kept.path), "--year", "2020", str(tmp_path / "out")]
    assert submission.main(told) == 2
    assert "1 bad test clips of fan were left out and have no score" in capsys.readouterr().err


def test_a_clip_of_another_length_than_most_is_a_warning(tmp_path, caplog):
    root = fans(tmp_path / "data", test_normal_00_1=of(noise(14400)))
    with caplog.at_level(logging.WARNING):
        listened(root, tmp_path, bad_clips="strict")
    assert caplog.messages == [
        "fan: 1 clips of another length than most, fan/test/normal_id_00_00000001.wav first: "
        "0.90 s; 1.00 s ± 1% is usual on this machine type"
    ]


def test_more_bad_clips_than_a_screen_holds_are_counted(tmp_path, caplog):
    many = {f"train_normal_00_{number}": b"" for number in range(2, 30)}
    root = fans(tmp_path / "data", **many)
    with caplog.at_level(logging.WARNING):
        found = listened(root, tmp_path)
    assert len(found.left_out) == 28
    assert len(caplog.messages) == machine_data.SHOWN + 1
    assert caplog.messages[-1] == "fan: 8 more are left out; the results name all"


def test_wavs_straight_in_the_root_are_told_where_they_belong(tmp_path):
    (tmp_path / "a.wav").write_bytes(WAV)
    with pytest.raises(BadInput) as refusal:
        clips.machine_types(tmp_path, "folder")
    assert str(refusal.value) == (
        f"no machine type of release folder in {tmp_path}: wanted {tmp_path}/train or "
        f"{tmp_path}/normal, found 'a.wav'; put normal clips to learn from into {tmp_path}/train "
        f"and clips to judge into {tmp_path}/test; or, where there are none to judge, all into "
        f"{tmp_path}/normal"
    )
