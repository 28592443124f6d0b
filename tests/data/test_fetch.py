"""Releases on their way from a server, which fails in every way a server can, to a clip table."""

import copy
import hashlib
import io
import json
import os
import re
import signal
import stat
import struct
import subprocess
import sys
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import soundfile

from asdgan.data import __main__, audit
from asdgan.data.clips import clip_table
from asdgan.data.fetch import archives, download, fetch
from asdgan.data.fetch.download import Patience, Remote
from asdgan.errors import BadInput

QUICK = Patience(connect=5, silence=0.3, failures=3, first=0.001, longest=0.002, asked=5)
BODY = np.random.default_rng(0).bytes(700_000)


class Handler(BaseHTTPRequestHandler):
    """Serves `server.files`; each request takes the next of `server.faults`, if any is left."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format, *args):
        pass

    def do_GET(self):
        asked = self.headers.get("Range")
        self.server.asked.append((self.path, asked))
        fault = self.server.faults.pop(0) if self.server.faults else None
        body = self.server.files.get(self.path.partition("?")[0])
        self.close_connection = True
        if isinstance(fault, tuple):
            return self.answer(fault[0], b"later", **fault[1])
        if body is None:
            return self.answer(404, b"not here")
        if fault == "page":
            return self.answer(200, b"<!DOCTYPE html><p>Please wait")
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        if start >= len(body) and start:
            return self.answer(416, b"", content_range=f"bytes */{len(body)}")
        if fault == "ignores Range":
            start = 0
        status, extra = 200, {}
        if start:
            first = 7 if fault == "other range" else start
            status = 206
            extra = {"content_range": f"bytes {first}-{len(body) - 1}/{len(body)}"}
        rest = body[start:]
        length = {"says more": len(rest) + 1000, "says less": len(rest) // 2}.get(fault, len(rest))
        if fault in ("cut", "stall"):
            rest = rest[: len(rest) // 2]
        if fault == "changed":
            rest = bytes(len(rest))
        self.answer(status, rest, length=length, **extra)
        if fault == "stall":
            self.wfile.flush()
            self.server.let_go.wait(20)

    def answer(self, status, body, *, length=None, **headers):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.files, server.faults, server.asked = {"/f": BODY}, [], []
        server.let_go = threading.Event()
        server.daemon_threads = True
        server.base = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.let_go.set()
        server.shutdown()
        thread.join()


def remote(server, body=BODY, **changes):
    stated = {"md5": hashlib.md5(body).hexdigest(), "size": len(body)}
    return Remote(**{"url": f"{server.base}/f", "name": "f.zip", **stated, **changes})


def got(server, folder, counts=None, **changes):
    counts = [] if counts is None else counts
    path = download.fetch(remote(server, **changes), folder, counts.append, QUICK)
    assert not path.with_name("f.zip.part").exists()
    return path.read_bytes()


# The net -----------------------------------------------------------------------------------------


def test_a_file_comes_whole_and_is_not_asked_for_twice(server, tmp_path):
    assert got(server, tmp_path) == BODY
    counts = []
    assert got(server, tmp_path, counts) == BODY
    assert len(server.asked) == 1
    assert sum(counts) == len(BODY)


@pytest.mark.parametrize("fault", ["cut", "stall", "says more"])
def test_what_came_before_a_cut_is_not_asked_for_again(server, tmp_path, fault):
    server.faults = [fault]
    counts = []
    assert got(server, tmp_path, counts) == BODY
    assert sum(counts) == len(BODY)
    ranges = [asked for _, asked in server.asked]
    kept = len(BODY) if fault == "says more" else len(BODY) // 2
    assert ranges == ([None] if kept == len(BODY) else [None, f"bytes={kept}-"])


def test_a_half_file_of_another_day_is_gone_on_with(server, tmp_path):
    (tmp_path / "f.zip.part").write_bytes(BODY[:1000])
    assert got(server, tmp_path) == BODY
    assert [asked for _, asked in server.asked] == ["bytes=1000-"]


def test_a_half_file_of_another_version_is_thrown_away_once(server, tmp_path):
    (tmp_path / "f.zip.part").write_bytes(bytes(1000))
    assert got(server, tmp_path) == BODY
    assert [asked for _, asked in server.asked] == ["bytes=1000-", None]


@pytest.mark.parametrize("fault", ["ignores Range", "other range"])
def test_a_server_that_does_not_keep_to_the_range_costs_time_only(server, tmp_path, fault):
    (tmp_path / "f.zip.part").write_bytes(BODY[:1000])
    server.faults = [fault]
    assert got(server, tmp_path) == BODY


def test_a_half_file_that_is_longer_than_the_whole_begins_anew(server, tmp_path):
    (tmp_path / "f.zip.part").write_bytes(BODY + b"more")
    assert got(server, tmp_path) == BODY


def test_a_body_that_is_cut_short_of_what_was_stated_is_completed(server, tmp_path):
    server.faults = ["says less"]
    assert got(server, tmp_path) == BODY
    assert [asked for _, asked in server.asked] == [None, f"bytes={len(BODY) // 2}-"]


def test_more_than_was_stated_is_refused_and_removed(server, tmp_path):
    with pytest.raises(BadInput, match="has more than the 700 bytes that its record states"):
        got(server, tmp_path, size=700)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fault", ["changed", "page"])
def test_what_does_not_verify_never_gets_its_name(server, tmp_path, fault):
    server.faults = [fault] * 3
    with pytest.raises(BadInput, match=r"has md5 .* states|given up after 3 failures"):
        got(server, tmp_path)
    assert not (tmp_path / "f.zip").exists()


@pytest.mark.parametrize(("status", "why"), [(403, "refuses"), (404, "does not have it")])
def test_a_refusal_is_final_and_says_what_to_do_by_hand(server, tmp_path, status, why):
    server.faults = [(status, {})]
    with pytest.raises(BadInput, match=rf"the server {why}.*{status}.*; fetch it by hand"):
        got(server, tmp_path)
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_asks_for_time_gets_what_it_asks_for(server, tmp_path, monkeypatch, status):
    waits = []
    monkeypatch.setattr(download.time, "sleep", waits.append)
    server.faults = [(status, {"retry_after": "3"}), "cut", (status, {})]
    assert got(server, tmp_path) == BODY
    assert waits[0] == 3
    assert all(wait < 1 for wait in waits[1:])
    assert [asked for _, asked in server.asked][2:] == [f"bytes={len(BODY) // 2}-"] * 2


def test_a_server_that_asks_for_hours_is_left_to_the_person(server, tmp_path):
    server.faults = ["cut", (503, {"retry_after": "7200"})]
    with pytest.raises(BadInput, match="asks to wait 7200 s; what is there stays"):
        got(server, tmp_path)
    assert (tmp_path / "f.zip.part").stat().st_size == len(BODY) // 2


def test_failures_without_progress_end_and_keep_what_came(server, tmp_path):
    server.faults = ["cut", *[(503, {})] * 5]
    with pytest.raises(BadInput, match="given up after 3 failures in a row, the last: 503"):
        got(server, tmp_path)
    assert (tmp_path / "f.zip.part").stat().st_size == len(BODY) // 2


def test_a_server_that_is_not_there_is_a_sentence(tmp_path):
    gone = Remote(url="http://127.0.0.1:9/f", name="f.zip", md5=None, size=None)
    with pytest.raises(BadInput, match=r"http://127.0.0.1:9/f: given up after 3"):
        download.fetch(gone, tmp_path, lambda count: None, QUICK)


@pytest.mark.parametrize("url", ["http://example.org/f", "ftp://example.org/f", "file:///f"])
def test_only_https_is_spoken_beyond_this_machine(tmp_path, url):
    with pytest.raises(BadInput, match="begins with https:// is expected"):
        download.fetch(
            Remote(url=url, name="f", md5=None, size=None), tmp_path, lambda count: None, QUICK
        )


def test_a_redirect_away_from_https_is_refused(tmp_path, monkeypatch):
    class Answer:
        url, history = "http://127.0.0.1/f", ()
        close = staticmethod(lambda: None)

    monkeypatch.setattr(download.requests, "get", lambda *_, **__: Answer)
    there = Remote(url="https://example.org/f", name="f", md5=None, size=None)
    with pytest.raises(BadInput, match=r"leads to http://127\.0\.0\.1/f, which is not HTTPS"):
        download.fetch(there, tmp_path, lambda count: None, QUICK)


def test_a_file_that_was_brought_by_hand_is_verified_too(server, tmp_path):
    (tmp_path / "f.zip").write_bytes(b"something else")
    with pytest.raises(BadInput, match=r"f\.zip has 14 of the 700000 bytes .*; remove it"):
        got(server, tmp_path)


# Archives ----------------------------------------------------------------------------------------


def packed(members, **options):
    """A zip of names (or ZipInfos) and contents."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content, **options)
    return stream.getvalue()


def special(name, mode):
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, mode << 16
    return info


def twice():
    with pytest.warns(UserWarning, match="Duplicate name"):
        return packed([("fan/a.wav", b"1"), ("fan/a.wav", b"2")])


def encrypted():
    body = bytearray(packed([("fan/a.wav", b"secret")]))
    for place, offset in ((body.index(b"PK\3\4"), 6), (body.index(b"PK\1\2"), 8)):
        body[place + offset] |= 1
    return bytes(body)


def overlapping():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("fan/0.wav", BODY[:5000])
        for number in range(1, 20):
            again = copy.copy(archive.filelist[0])
            again.filename = again.orig_filename = f"fan/{number}.wav"
            archive.filelist.append(again)
    return stream.getvalue()


HOSTILE = {
    "climbs": (lambda: packed([("../evil.wav", b"1")]), r"'\.\./evil.wav' climbs out"),
    "climbs within": (lambda: packed([("fan/../../evil.wav", b"1")]), "climbs out"),
    "absolute": (lambda: packed([("/evil.wav", b"1")]), "'/evil.wav' has an absolute path"),
    "drive": (lambda: packed([("C:evil.wav", b"1")]), "has an absolute path"),
    "backslash": (lambda: packed([("fan\\..\\evil.wav", b"1")]), "has a backslash"),
    "empty step": (lambda: packed([("fan//evil.wav", b"1")]), "has an empty step"),
    "newline": (lambda: packed([("fan/a\n.wav", b"1")]), r"'fan/a\\n.wav' has a control char"),
    "long": (lambda: packed([(f"fan/{'a' * 300}.wav", b"1")]), "has too long a name"),
    "link": (
        lambda: packed([("fan/a.wav", b"1"), (special("fan/l", stat.S_IFLNK), b"/etc")]),
        "'fan/l' is a link",
    ),
    "device": (lambda: packed([(special("fan/d", stat.S_IFBLK), b"")]), "'fan/d' is no plain"),
    "duplicate": (twice, "'fan/a.wav' is there twice"),
    "case": (lambda: packed([("fan/a.wav", b"1"), ("Fan/A.wav", b"2")]), "differs from 'fan/a"),
    "unicode": (lambda: packed([("é.wav", b"1"), ("e\u0301.wav", b"2")]), "differs from 'é.wav'"),
    "file as folder": (lambda: packed([("fan", b"1"), ("fan/a.wav", b"2")]), "needs a folder"),
    "encrypted": (encrypted, "'fan/a.wav' is encrypted"),
    "bomb": (lambda: packed([("fan/a.wav", bytes(70 << 20))]), "a bomb, .* unpack to 73400320"),
    "overlapping": (overlapping, "its members overlap"),
    "web page": (lambda: b"<!DOCTYPE html><p>Sorry", r"cannot be opened \(a saved web page; 23"),
    "empty": (lambda: b"", r"cannot be opened \(empty"),
    "zeros": (lambda: bytes(5000), r"cannot be opened \(empty, or an unfinished copy"),
    "cut": (lambda: packed([("fan/a.wav", BODY)])[:-9], r"cannot be opened \(cut, or damaged"),
    "no file": (lambda: packed([("fan/", b"")]), "holds no file"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_is_refused_whole_and_by_name(tmp_path, name):
    make, sentence = HOSTILE[name]
    path = tmp_path / "in" / "dev_fan.zip"
    path.parent.mkdir()
    path.write_bytes(make())
    with pytest.raises(BadInput, match=sentence):
        archives.unpack(path, tmp_path / "out", lambda count: None)
    assert [entry.name for entry in tmp_path.rglob("*")] == ["in", "dev_fan.zip"]


def test_a_flipped_bit_in_a_member_is_found_by_its_crc(tmp_path):
    body = bytearray(packed([("fan/a.wav", BODY)], compress_type=zipfile.ZIP_STORED))
    body[5000] ^= 1
    (tmp_path / "a.zip").write_bytes(body)
    with pytest.raises(BadInput, match=r"'fan/a\.wav' is damaged .*; nothing was installed"):
        archives.unpack(tmp_path / "a.zip", tmp_path / "out", lambda count: None)


def test_a_member_that_is_longer_than_stated_is_found(tmp_path):
    body = bytearray(packed([("fan/a.wav", BODY)], compress_type=zipfile.ZIP_STORED))
    central = body.index(b"PK\1\2")
    body[central + 24 : central + 28] = struct.pack("<I", 600_000)
    (tmp_path / "a.zip").write_bytes(body)
    with pytest.raises(BadInput, match=r"'fan/a\.wav' is damaged"):
        archives.unpack(tmp_path / "a.zip", tmp_path / "out", lambda count: None)


def test_no_mutated_archive_brings_anything_but_a_refusal(tmp_path):
    body = packed([("fan/", b""), ("fan/train/a.wav", BODY[:3000]), ("fan/é.wav", b"a" * 500)])
    generator = np.random.default_rng(0)
    said = []
    for number in range(300):
        wrong = np.frombuffer(body, np.uint8).copy()
        wrong[generator.integers(len(wrong), size=3)] = generator.integers(256, size=3)
        (tmp_path / "a.zip").write_bytes(wrong.tobytes())
        try:
            archives.unpack(tmp_path / "a.zip", tmp_path / str(number), lambda count: None)
        except BadInput as error:
            said.append(str(error))
    assert len(said) > 150
    assert all(sentence.startswith(f"archive {tmp_path}") for sentence in said)
    assert {path.name for path in tmp_path.iterdir()} <= {"a.zip", *map(str, range(300))}


def test_a_good_archive_is_written_as_it_was_packed(tmp_path):
    (tmp_path / "a.zip").write_bytes(packed([("fan/", b""), ("fan/train/a.wav", BODY)]))
    counts = []
    (written,) = archives.unpack(tmp_path / "a.zip", tmp_path / "out", counts.append)
    assert (tmp_path / "out" / "fan" / "train" / "a.wav").read_bytes() == BODY
    assert written[:2] == ("fan/train/a.wav", len(BODY)) == (written.name, sum(counts))


def seven(folder, members, **options):
    """A 7z in parts of 2000 bytes; its first part."""
    py7zr = pytest.importorskip("py7zr", reason="the extra toyadmos is not installed")
    folder.mkdir(exist_ok=True)
    with py7zr.SevenZipFile(folder / "whole", "w", **options) as archive:
        for name, content in members:
            if isinstance(content, str):
                (folder / "link").symlink_to(content)
                archive.write(folder / "link", name)
            else:
                archive.writestr(content, name)
    whole = (folder / "whole").read_bytes()
    (folder / "whole").unlink()
    for start in range(0, len(whole), 2000):
        (folder / f"ToyCar.7z.{start // 2000 + 1:03}").write_bytes(whole[start : start + 2000])
    return folder / "ToyCar.7z.001"


def test_a_7z_in_parts_is_unpacked_and_checked(tmp_path):
    first = seven(tmp_path / "in", [("ToyCar/case1/a.wav", BODY[:5000]), ("ToyCar/b", b"b")])
    written = archives.unpack(first, tmp_path / "out", lambda count: None)
    assert (tmp_path / "out" / "ToyCar" / "case1" / "a.wav").read_bytes() == BODY[:5000]
    assert sorted(one.name for one in written) == ["ToyCar/b", "ToyCar/case1/a.wav"]


def test_a_7z_with_a_link_or_a_lock_or_without_a_part_is_refused(tmp_path):
    first = seven(tmp_path / "a", [("ToyCar/l", "..")])
    with pytest.raises(BadInput, match=r"'ToyCar/l' is a link"):
        archives.unpack(first, tmp_path / "out", lambda count: None)
    first = seven(tmp_path / "b", [("ToyCar/a.wav", BODY[:5000])])
    first.with_suffix(".003").unlink()
    with pytest.raises(BadInput, match="cannot be opened"):
        archives.unpack(first, tmp_path / "out", lambda count: None)
    first = seven(
        tmp_path / "c", [("ToyCar/a.wav", BODY[:99])], password="p", header_encryption=True
    )
    with pytest.raises(BadInput, match="is encrypted"):
        archives.unpack(first, tmp_path / "out", lambda count: None)


# From a record to a clip table -------------------------------------------------------------------


def wav(seed=0, seconds=0.1):
    stream = io.BytesIO()
    samples = np.random.default_rng(seed).normal(0, 0.1, int(16000 * seconds))
    soundfile.write(stream, samples, 16000, subtype="PCM_16", format="WAV")
    return stream.getvalue()


def release(machine_type, section, *splits):
    """Members of an archive of the 2022 release."""
    names = {
        "train": f"{machine_type}/train/section_{section}_source_train_normal_0000_v_1.wav",
        "test": f"{machine_type}/test/section_{section}_target_test_anomaly_0000_v_1.wav",
        "eval": f"{machine_type}/test/section_{section}_0000.wav",
    }
    return [(names[split], wav(seed)) for seed, split in enumerate(splits)]


DEV, TRAIN, TEST = (6355122, "dev_fan.zip"), (6462969, "eval_data_fan_train.zip"), (
    6586456, "eval_data_fan_test.zip",
)  # fmt: skip


@pytest.fixture
def zenodo(server, monkeypatch):
    """A server with the records of the 2022 release, of which it has fan only."""
    monkeypatch.setattr(__main__, "Patience", lambda: QUICK)
    server.files.clear()
    for (number, name), members in (
        (DEV, [*release("fan", "00", "train", "test"), ("__MACOSX/fan/._x.wav", b"litter")]),
        (TRAIN, [*release("fan", "03", "train"), ("fan/attributes_03.csv", b"a,b\n")]),
        (TEST, release("fan", "03", "eval")),
    ):
        body = packed(members)
        stated = {"key": name, "size": len(body), "checksum": f"md5:{md5(body)}"}
        server.files[f"/records/{number}/files/{name}"] = body
        server.files[f"/api/records/{number}"] = json.dumps({"files": [stated]}).encode()
    return server


def md5(body):
    return hashlib.md5(body).hexdigest()


def fetching(server, root, *rest, word="fetch"):
    base = ["--base", server.base] if word == "fetch" else []
    return __main__.main(
        [word, "dcase2022", "--machine", "fan", "--root", str(root), *base, *rest]
    )


def visible(root):
    """What a person sees below a data root."""
    return sorted(
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.is_file() and "archives" not in path.relative_to(root).parts
    )


def test_a_release_is_fetched_shown_and_verified(zenodo, tmp_path, capsys):
    assert fetching(zenodo, tmp_path) == 0
    said = capsys.readouterr().out
    assert (
        "dcase2022: 1 archives, 0.0 MB to fetch, some 0.0 MB unpacked" in said.partition("\n")[0]
    )
    assert [clip.split for clip in clip_table(tmp_path, "dcase2022", "fan")] == ["test", "train"]
    assert visible(tmp_path) == [
        "dev_data/fan/test/section_00_target_test_anomaly_0000_v_1.wav",
        "dev_data/fan/train/section_00_source_train_normal_0000_v_1.wav",
    ]
    assert fetching(zenodo, tmp_path, word="show") == 0
    assert "│ dev    │ fan          │ 00      │ target │ test  │ anomaly │     1 │" in (
        capsys.readouterr().out
    )
    assert fetching(zenodo, tmp_path, word="verify") == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "1 archives held against what was fetched",
        "nothing wrong",
    ]


def test_what_is_there_is_not_fetched_again(zenodo, tmp_path, capsys):
    assert fetching(zenodo, tmp_path) == 0
    count = len(zenodo.asked)
    assert fetching(zenodo, tmp_path) == 0
    assert len(zenodo.asked) == count
    assert "all 1 archives are there already" in capsys.readouterr().out
    assert not list((tmp_path / "archives").glob("*.zip"))


def test_archives_that_share_a_machine_type_are_put_together(zenodo, tmp_path):
    assert fetching(zenodo, tmp_path, "--subset", "all") == 0
    assert [name for name in visible(tmp_path) if "eval" in name] == [
        "eval_data/fan/attributes_03.csv",
        "eval_data/fan/test/section_03_0000.wav",
        "eval_data/fan/train/section_03_source_train_normal_0000_v_1.wav",
    ]
    assert fetching(zenodo, tmp_path, "--subset", "all") == 0


def test_the_md5_of_the_first_time_is_pinned(zenodo, tmp_path, capsys):
    assert fetching(zenodo, tmp_path) == 0
    number, name = DEV
    (tmp_path / "archives" / f"{name}.json").unlink()
    (tmp_path / "dev_data").rename(tmp_path / "aside")
    for path in (f"/records/{number}/files/{name}", f"/api/records/{number}"):
        zenodo.files[path] = zenodo.files[path].replace(b"a", b"b")  # another version
    assert fetching(zenodo, tmp_path) == 2
    assert "but its record states" in capsys.readouterr().err
    assert not (tmp_path / "dev_data").exists()


@pytest.fixture
def published(tmp_path, monkeypatch):
    """Puts another list of records in the place of ours."""

    def put(content):
        (tmp_path / "records.yaml").write_text(json.dumps(content))  # JSON is YAML
        monkeypatch.setattr(fetch, "RECORDS", tmp_path / "records.yaml")
        fetch._records.cache_clear()

    yield put
    fetch._records.cache_clear()


def test_a_record_that_contradicts_what_was_published_is_refused(
    zenodo, published, tmp_path, capsys
):
    archive = {"name": DEV[1], "machine_type": "fan", "md5": "00"}
    record = {"record": DEV[0], "unpack": "dev_data", "archives": [archive]}
    published({"dcase2022": {"licence": "none", "dev": [record]}})
    assert fetching(zenodo, tmp_path / "root") == 2
    assert "but 00 was published; the record has changed" in capsys.readouterr().err


def test_an_archive_in_parts_beside_a_plain_file_is_fetched_whole(
    zenodo, published, tmp_path, capsys
):
    place = "ToyCar/case1"
    names = [f"{place}/NormalSound_IND/1_ToyCar_case1_normal_IND_ch1_{n:04}.wav" for n in (1, 2)]
    names.append(f"{place}/AnomalousSound_IND/1_ToyCar_case1_ab01_IND_ch1_0001.wav")
    first = seven(tmp_path / "7z", [(name, wav(seed)) for seed, name in enumerate(names)])
    files = {path.name: path.read_bytes() for path in sorted(first.parent.iterdir())}
    files["LICENSE.pdf"] = b"%PDF"
    stated = [{"name": name, "md5": md5(body), "size": len(body)} for name, body in files.items()]
    for name, body in files.items():
        zenodo.files[f"/records/1/files/{name}"] = body
    *parts, plain = stated
    archive = {"name": "ToyCar.7z", "machine_type": "ToyCar", "parts": parts}
    record = {"record": 1, "unpack": ".", "archives": [archive], "files": [plain]}
    published({"toyadmos": {"licence": "its own", "unpacks_to": 2.6, "all": [record]}})
    command = ["fetch", "toyadmos", "--root", str(tmp_path / "toy"), "--base", zenodo.base]
    assert __main__.main(command) == 0
    assert [path for path, _ in zenodo.asked] == [
        f"/records/1/files/{name}?download=1" for name in files
    ]
    table = clip_table(tmp_path / "toy", "toyadmos", "ToyCar")
    assert [clip.split for clip in table] == ["test", "test", "train"]
    assert (tmp_path / "toy" / "LICENSE.pdf").is_file()
    assert __main__.main(command) == 0
    assert "all 2 archives are there already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("page", "sentence"),
    [
        (b"<!DOCTYPE html>", "is not a record with names, sizes and checksums"),
        (b'{"files": [{"key": "dev_fan.zip"}]}', "is not a record"),
        (b'{"files": []}', "record 6355122 has no file dev_fan.zip"),
        (None, "the server does not have it"),
    ],
)
def test_a_record_that_is_none_is_a_sentence(zenodo, tmp_path, capsys, page, sentence):
    zenodo.files["/api/records/6355122"] = page
    assert fetching(zenodo, tmp_path) == 2
    assert sentence in capsys.readouterr().err
    assert visible(tmp_path) == []


@pytest.mark.parametrize("fault", ["cut", "stall", (503, {}), (429, {}), "says more"])
def test_a_faulty_server_delays_a_release_and_changes_nothing(zenodo, tmp_path, fault):
    zenodo.faults = [None, fault, None, None]
    assert fetching(zenodo, tmp_path) == 0
    assert len(clip_table(tmp_path, "dcase2022", "fan")) == 2


@pytest.mark.parametrize("name", ["climbs", "link", "bomb"])
def test_nothing_of_a_hostile_archive_becomes_visible(zenodo, tmp_path, capsys, name):
    body = HOSTILE[name][0]()
    stated = {"key": DEV[1], "size": len(body), "checksum": f"md5:{md5(body)}"}
    zenodo.files[f"/records/{DEV[0]}/files/{DEV[1]}"] = body
    zenodo.files[f"/api/records/{DEV[0]}"] = json.dumps({"files": [stated]}).encode()
    assert fetching(zenodo, tmp_path / "root") == 2
    assert "is refused" in capsys.readouterr().err
    assert visible(tmp_path / "root") == []
    assert not list(tmp_path.rglob("evil*"))


def test_a_7z_that_nothing_can_open_is_not_downloaded(zenodo, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "py7zr", None)
    command = ["fetch", "toyadmos", "--machine", "ToyCar", "--base", zenodo.base]
    assert __main__.main([*command, "--root", str(tmp_path)]) == 2
    assert "pip install 'asdgan[toyadmos]'" in capsys.readouterr().err
    assert zenodo.asked == []


def test_a_small_disk_is_refused_before_anything_is_fetched(zenodo, tmp_path, capsys, monkeypatch):
    usage = fetch.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    assert fetching(zenodo, tmp_path) == 2
    assert "dcase2022 needs some 0.0 MB at" in capsys.readouterr().err
    assert [path for path, _ in zenodo.asked] == ["/api/records/6355122"]


def test_a_folder_of_unknown_origin_is_not_taken_for_whole(zenodo, tmp_path, capsys):
    (tmp_path / "dev_data" / "fan" / "train").mkdir(parents=True)
    assert fetching(zenodo, tmp_path) == 2
    assert "train is there already, and fetch did not put it there" in capsys.readouterr().err
    assert zenodo.asked == []


@pytest.mark.parametrize("place", ["unpack", "move"])
def test_a_plug_pulled_while_unpacking_leaves_nothing_half(zenodo, tmp_path, monkeypatch, place):
    """Killed in the middle of unpacking, or between unpacking and the rename."""
    whole = archives.unpack

    def half(path, folder, on_bytes):
        whole(path, folder, on_bytes)
        next(folder.rglob("*.wav")).unlink()
        raise KeyboardInterrupt

    def never(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if place == "unpack":
            patch.setattr(archives, "unpack", half)
        else:
            patch.setattr(fetch, "_move", never)
        assert fetching(zenodo, tmp_path) == 130
    assert visible(tmp_path) == []
    count = len(zenodo.asked)
    assert fetching(zenodo, tmp_path) == 0
    assert len(zenodo.asked) == count
    assert len(visible(tmp_path)) == 2


def test_a_fetched_clip_that_is_lost_or_changed_is_found(zenodo, tmp_path, capsys):
    assert fetching(zenodo, tmp_path) == 0
    name = tmp_path / visible(tmp_path)[0]
    name.write_bytes(wav(7))
    assert fetching(zenodo, tmp_path, word="verify") == 1
    assert "not as it was fetched (dev_fan.zip): dev_data/fan/test" in capsys.readouterr().out
    name.unlink()
    assert fetching(zenodo, tmp_path) == 2
    assert "was fetched, but of its files 1 are not as they were" in capsys.readouterr().err


def test_two_fetches_do_not_share_a_folder(zenodo, tmp_path, capsys):
    (tmp_path / "archives").mkdir()
    with fetch._alone(tmp_path / "archives"):
        assert fetching(zenodo, tmp_path) == 2
    assert "another fetch is at work" in capsys.readouterr().err


def test_ctrl_c_keeps_the_half_file_and_the_next_call_goes_on(zenodo, tmp_path, repository):
    body = packed([*release("fan", "00", "train", "test"), ("fan/x.bin", BODY)])
    stated = {"key": DEV[1], "size": len(body), "checksum": f"md5:{md5(body)}"}
    zenodo.files[f"/records/{DEV[0]}/files/{DEV[1]}"] = body
    zenodo.files[f"/api/records/{DEV[0]}"] = json.dumps({"files": [stated]}).encode()
    zenodo.faults = [None, "stall"]
    command = [sys.executable, "-m", "asdgan.data", "fetch", "dcase2022", "--machine", "fan"]
    command += ["--root", str(tmp_path), "--base", zenodo.base]
    environment = os.environ | {"PYTHONPATH": str(repository)}
    part = tmp_path / "archives" / "dev_fan.zip.part"
    with subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        for _ in range(600):
            if part.exists() and part.stat().st_size:
                break
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        said, wrong = process.communicate(timeout=30)
    assert (process.returncode, wrong) == (130, "")
    assert "stay in" in said.splitlines()[-1]
    assert said.splitlines()[-1].endswith("the same command goes on from there")
    kept = part.stat().st_size
    assert fetching(zenodo, tmp_path) == 0
    assert zenodo.asked[-1][1] == f"bytes={kept}-"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["fetch", "dcase2022", "--machine", "fna"], "has no machine type 'fna'; it has ToyCar"),
        (
            ["fetch", "dcase2022", "--subset", "evil"],
            "no subset 'evil'; it has dev, eval, and all",
        ),
        (["fetch", "folder"], "release folder cannot be fetched; those that can are dcase2020"),
        (["show", "dcase20022"], "no release 'dcase20022'; known: .*; did you mean 'dcase20"),
        (["show", "dcase2022", "--root", "gone"], "asdgan data fetch dcase2022 --root gone"),
        (["look"], "invalid choice: 'look'"),
        ([], "the following arguments are required"),
    ],
)
def test_a_mistake_on_the_command_line_is_a_sentence_and_exit_code_2(
    tmp_path, monkeypatch, capsys, words, sentence
):
    monkeypatch.chdir(tmp_path)
    assert __main__.main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(sentence, line)


def test_every_published_archive_names_its_machine_type_and_place():
    for name in fetch._records():
        subset = "all"
        for one in fetch.wanted(name, subset, []):
            assert one.machine_type is None or one.machine_type in one.name
            assert all(part.md5 is None or len(part.md5) == 32 for part in one.parts)
            assert not one.unpack.startswith(("/", ".."))


def test_the_default_root_is_the_one_of_the_configs(monkeypatch, tmp_path):
    from asdgan.config import compose

    monkeypatch.setenv(__main__.DATA, str(tmp_path))
    for name in fetch._records():
        config = compose.compose(["model=dcase_ae", f"dataset={name}"])
        assert config.dataset.root == str(tmp_path / name)


# What is wrong with data -------------------------------------------------------------------------


def plant(root, **clips):
    for name, content in clips.items():
        split, label, number = name.split("_")
        path = root / "dev_data" / "fan" / split / f"{label}_id_00_{int(number):08}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return audit.audit(clip_table(root, "dcase2020", "fan"), root, lambda count: None)


def test_good_clips_give_nothing_to_say(tmp_path):
    report = plant(tmp_path, train_normal_0=wav(0), test_normal_1=wav(1), test_anomaly_2=wav(2))
    assert (report.wrong, report.noted) == ([], [])


def test_a_clip_in_training_and_test_is_wrong(tmp_path):
    report = plant(tmp_path, train_normal_0=wav(0), test_normal_1=wav(0), test_anomaly_2=wav(2))
    (sentence,) = report.wrong
    assert sentence.startswith("the same in training and test: fan/test/normal_id_00_00000001.wav")


def test_a_clip_under_two_labels_is_wrong(tmp_path):
    report = plant(tmp_path, train_normal_0=wav(0), test_normal_1=wav(1), test_anomaly_2=wav(1))
    assert [sentence.partition(":")[0] for sentence in report.wrong] == [
        "the same under two labels"
    ]


def test_a_broken_clip_is_wrong_and_the_others_are_read_on(tmp_path):
    report = plant(tmp_path, train_normal_0=wav(0), train_normal_1=wav(1)[:-9], test_anomaly_2=b"")
    assert [sentence.partition(":")[0] for sentence in report.wrong] == ["unreadable"] * 2


def test_silence_copies_and_odd_lengths_are_noted(tmp_path):
    silence = io.BytesIO()
    soundfile.write(silence, np.zeros(1600), 16000, subtype="PCM_16", format="WAV")
    report = plant(
        tmp_path,
        train_normal_0=wav(0), train_normal_1=wav(0), train_normal_2=silence.getvalue(),
        test_normal_3=wav(3, seconds=0.2), test_normal_4=wav(4),
    )  # fmt: skip
    assert report.wrong == []
    assert report.noted == [
        "silent: fan/train/normal_id_00_00000002.wav: every sample is 0",
        "the same twice: fan/train/normal_id_00_00000000.wav == "
        "fan/train/normal_id_00_00000001.wav",
        "length: fan/test/normal_id_00_00000003.wav: 0.20 s; 0.10 s ± 1% is usual on this machine "
        "type",
        "section 00: 2 normal, 0 anomalous, 0 unlabelled test clips, so it has no AUC",
    ]


def test_verify_goes_on_with_the_other_machine_types(tmp_path, capsys):
    plant(tmp_path, train_normal_0=wav(0), test_normal_1=wav(1), test_anomaly_2=wav(2))
    odd = tmp_path / "dev_data" / "ToyCar" / "train" / "odd.wav"
    odd.parent.mkdir(parents=True)
    odd.write_bytes(wav())
    assert __main__.main(["verify", "dcase2020", "--root", str(tmp_path)]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("wrong: dev ToyCar: clip 'ToyCar/train/odd.wav' in")
    assert said[1:] == [
        "dev fan: 3 clips read (1 train, 1 test normal, 1 test anomaly)",
        "1 wrong",
    ]


def test_verify_says_which_published_list_disagrees_where(shared, tmp_path, capsys):
    plant(tmp_path, train_normal_0=wav(0), test_normal_1=wav(1), test_anomaly_2=wav(2))
    lists = str(shared / "evaluator_cases" / "2022")
    assert __main__.main(["verify", "dcase2020", "--root", str(tmp_path), "--truth", lists]) == 0
    said = capsys.readouterr().out
    assert "eval_data_list_2022.csv differs from ground_truth_data in the label of 296" in said
    assert "eval_data_list_2022.csv differs from ground_truth_domain in the domain of 300" in said
