import hashlib
import os
import signal
import subprocess
import sys
import threading

import pytest

from asdgan._system.files import (
    canonical,
    read_json,
    sha256_of,
    whole_file,
    write_json,
    write_whole,
)
from asdgan.errors import Damaged

HALF_WRITTEN = """
import sys, time
from pathlib import Path
from asdgan._system.files import whole_file
with whole_file(Path(sys.argv[1])) as file:
    file.write(b"new" * 1_000_000)
    print("half", flush=True)
    time.sleep(60)
"""
DISK_FULL = """
import resource, signal, sys
from pathlib import Path
from asdgan._system.files import write_whole
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_whole(Path(sys.argv[1]), b"new" * 1_000_000)
except OSError as error:
    print(type(error).__name__, error.errno)
"""


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_with_its_folders_and_its_digest(tmp_path):
    path = tmp_path / "a" / "b" / "c.bin"
    assert write_whole(path, b"abc") == sha256_of(path)
    assert path.read_bytes() == b"abc"
    assert names(path.parent) == ["c.bin"]


def test_a_colleague_can_read_what_was_written(tmp_path):
    write_whole(tmp_path / "a", b"")
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644


def test_the_digest_covers_all_pieces(tmp_path):
    with whole_file(tmp_path / "a") as file:
        file.write(b"one")
        file.write(b"two")
    assert file.sha256 == sha256_of(tmp_path / "a") == write_whole(tmp_path / "b", b"onetwo")


@pytest.mark.parametrize("failure", [RuntimeError("stop"), KeyboardInterrupt("stop")])
def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path, failure):
    def broken_off():
        with whole_file(tmp_path / "a") as file:
            file.write(b"new")
            raise failure

    write_whole(tmp_path / "a", b"old")
    with pytest.raises(type(failure), match="stop"):
        broken_off()
    assert (tmp_path / "a").read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_nothing_has_its_name_before_it_is_whole(tmp_path):
    with whole_file(tmp_path / "a") as file:
        file.write(b"new")
        assert not (tmp_path / "a").exists()
    assert (tmp_path / "a").read_bytes() == b"new"


def test_a_folder_in_the_way_leaves_no_temporary_file(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(OSError, match="irectory"):
        write_whole(tmp_path / "a", b"new")
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("old", [b"old", None])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, old):
    if old is not None:
        (tmp_path / "a").write_bytes(old)
    command = [sys.executable, "-c", DISK_FULL, str(tmp_path / "a")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.startswith("OSError")
    assert names(tmp_path) == ([] if old is None else ["a"])
    assert old is None or (tmp_path / "a").read_bytes() == old


def test_kill_9_while_writing_leaves_the_old_file(tmp_path):
    write_whole(tmp_path / "a", b"old")
    command = [sys.executable, "-c", HALF_WRITTEN, str(tmp_path / "a")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout.readline() == "half\n"
        writer.send_signal(signal.SIGKILL)
        writer.wait(timeout=60)
    assert (tmp_path / "a").read_bytes() == b"old"
    assert all(name.startswith(".a.") for name in names(tmp_path) if name != "a")


def test_a_reader_beside_two_writers_always_finds_a_whole_file(tmp_path):
    path, whole = tmp_path / "a", [bytes([sign]) * 100_000 for sign in b"xy"]
    write_whole(path, whole[0])
    writers = [
        threading.Thread(target=lambda data=data: [write_whole(path, data) for _ in range(5)])
        for data in whole
    ]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert path.read_bytes() in whole
    assert names(tmp_path) == ["a"]


def test_json_comes_back_as_it_was_written(tmp_path):
    body = {"b": [1, 0.1, None, True, "ü\n\x00"], "a": {"c": {}}, "pair": [1, 2]}
    write_json(tmp_path / "a.json", {**body, "pair": (1, 2)})
    assert read_json(tmp_path / "a.json") == body


def test_every_flipped_bit_of_a_json_file_is_damaged(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_json(path, {"auc": 0.875, "rows": [1, -2, True, None], "name": "fan"})
    good = path.read_bytes()
    for place in range(len(good) * 8):
        bad = bytearray(good)
        bad[place // 8] ^= 1 << place % 8
        monkeypatch.setattr(type(path), "read_bytes", lambda _, data=bytes(bad): data)
        with pytest.raises(Damaged, match=r"a\.json"):
            read_json(path)


def test_every_cut_of_a_json_file_is_damaged(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_json(path, {"auc": 0.875})
    good = path.read_bytes().rstrip()
    for length in range(len(good)):
        monkeypatch.setattr(type(path), "read_bytes", lambda _, end=length: good[:end])
        with pytest.raises(Damaged, match=r"a\.json"):
            read_json(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b'{"sha256": 1}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"sha256": "", "a": NaN}',
    ],
)
def test_what_was_not_written_here_is_damaged(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(Damaged, match=r"a\.json: no checksum inside"):
        read_json(tmp_path / "a.json")


def test_a_checksum_covers_the_text_and_not_only_the_values(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"rows": [{"auc": 0.5}, {"auc": 0.25}]})
    text = path.read_text()
    assert text.startswith('{\n"rows": [\n{"auc": 0.5},\n{"auc": 0.25}\n],\n"sha256": "')
    path.write_text(text.replace('{"auc": 0.5},\n', '{"auc": 0.5}, '))
    with pytest.raises(Damaged, match=r"a\.json: checksum [0-9a-f]{12} found, [0-9a-f]{12} stat"):
        read_json(path)


def test_a_checksum_alone_makes_no_json(tmp_path):
    text = b"{,\n"
    digest = hashlib.sha256(text).hexdigest()
    (tmp_path / "a.json").write_bytes(text + f'"sha256": "{digest}"\n}}\n'.encode())
    with pytest.raises(Damaged, match=r"a\.json: not readable as JSON"):
        read_json(tmp_path / "a.json")


def test_the_key_of_the_checksum_is_not_a_users(tmp_path):
    with pytest.raises(ValueError, match="the key 'sha256' is the checksum's own"):
        write_json(tmp_path / "a.json", {"sha256": "0"})


def test_a_json_that_is_not_there_is_no_damage(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone"):
        read_json(tmp_path / "gone.json")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_json_cannot_say_is_refused_and_nothing_is_written(tmp_path, number):
    with pytest.raises(ValueError, match="cannot be stored: say None and a reason instead"):
        write_json(tmp_path / "a.json", {"rows": [{"auc": number}]})
    assert names(tmp_path) == []


def test_one_value_has_one_canonical_text():
    assert canonical({"b": 1, "a": [1.5, "ü"]}) == '{"a":[1.5,"ü"],"b":1}'.encode()
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical({"a": float("nan")})


def test_the_digest_of_a_file_is_that_of_its_bytes(tmp_path):
    data = os.urandom(3_000_001)
    (tmp_path / "a").write_bytes(data)
    assert sha256_of(tmp_path / "a") == write_whole(tmp_path / "b", data)
