"""Files from the net, whole or not at all, and gone on with where they were left.

requests and urllib3 do the HTTP: TLS, proxies, redirects, content lengths, Retry-After. What no
library at hand does is to go on with a half file after a cut (pooch begins anew, and keeps no half
file), so that much is ours: what is there stays beside the target as `<name>.part`, the rest is
asked for by Range, and the file takes its name only when size and md5 agree with what was stated
of it.
"""

import hashlib
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import requests
from urllib3.exceptions import HTTPError
from urllib3.util import Retry

from asdgan.errors import BadInput

CHUNK = 1 << 18  # bytes
AGENT = "asdgan"
WAITED_OUT = {408, 425, 429, 500, 502, 503, 504}  # what a server says when later may do
CUT = (
    requests.ConnectionError, requests.Timeout, HTTPError,
    requests.exceptions.ChunkedEncodingError,
)  # fmt: skip
LARGEST_PAGE = 1 << 24  # bytes; a record has some 20,000
LOCAL = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long a server is waited for; all in seconds but `failures`.

    Attributes:
        connect: For a connection.
        silence: For the next bytes.
        failures: In a row, without a byte in between, after which it is given up.
        first: Wait after the first failure; doubled with each.
        longest: Of such waits.
        asked: The longest that a server's Retry-After is obeyed; more is for a person to wait.
    """

    connect: float = 15
    silence: float = 60
    failures: int = 8
    first: float = 1
    longest: float = 60
    asked: float = 900


@dataclass(frozen=True, kw_only=True)
class Remote:
    """A file to fetch.

    Attributes:
        url: Where it is.
        name: What it is called here.
        md5: Hex; None where nobody stated it.
        size: In bytes, or None.
    """

    url: str
    name: str
    md5: str | None
    size: int | None


class _Again(Exception):
    """Something that may be over soon; `wait` is what the server asked for, in seconds."""

    def __init__(self, what: str, wait: float | None = None) -> None:
        super().__init__(what)
        self.wait = wait


def page(url: str, patience: Patience) -> bytes:
    """A small document.

    Raises:
        BadInput: The server does not have it, or cannot be reached, or sends too much.
    """
    found = bytearray()

    def once() -> None:
        found.clear()
        with _get(url, 0, patience) as response:
            if response.status_code != 200:
                raise _answer(response, url)
            for piece in response.iter_content(CHUNK):
                found.extend(piece)
                if len(found) > LARGEST_PAGE:
                    raise BadInput(f"{url} sends more than {LARGEST_PAGE} bytes; is it a record?")

    _patiently(once, lambda: 0, url, patience)
    return bytes(found)


def fetch(
    remote: Remote, folder: Path, on_bytes: Callable[[int], None], patience: Patience
) -> Path:
    """The file, verified, in a folder; fetched unless it is there already.

    Args:
        remote: What to fetch.
        folder: Made as needed; a half file in it is gone on with.
        on_bytes: Told how many bytes more are there; fewer (below zero) where it began anew.
        patience: With the server.

    Raises:
        BadInput: The server does not have it, sends something else, or was given up. What came
            of it stays, unless it is known to be wrong.
        OSError: The disk refused, or is full.
    """
    target, part = folder / remote.name, folder / f"{remote.name}.part"
    if target.exists():
        if wrong := _wrong(target, remote):
            raise BadInput(f"{target} {wrong}; remove it and fetch it again")
        on_bytes(target.stat().st_size)
        return target
    folder.mkdir(parents=True, exist_ok=True)
    part.touch()
    on_bytes(part.stat().st_size)
    gone_on_with = part.stat().st_size > 0
    while True:
        _patiently(
            lambda: _rest(remote, part, on_bytes, patience),
            lambda: part.stat().st_size,
            remote.url,
            patience,
        )
        wrong = _wrong(part, remote)
        if wrong is None:
            break
        on_bytes(-part.stat().st_size)
        part.unlink()
        if not gone_on_with:
            raise BadInput(
                f"{remote.url} {wrong}; it was removed, try again later, and if that does not "
                "help the record may have changed"
            )
        gone_on_with = False  # the old half may have been another version's: once from the start
        part.touch()
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(target)
    return target


def _rest(remote: Remote, part: Path, on_bytes: Callable[[int], None], patience: Patience) -> None:
    """Appends what is missing; returns when all is there, as far as the server says."""
    have = part.stat().st_size
    if have and have == remote.size:
        return
    with _get(remote.url, have, patience) as response:
        if response.status_code == 416 and have:
            # Nothing lies behind what is there: it is all, or it is another file's.
            total = response.headers.get("Content-Range", "").rpartition("/")[2]
            if remote.size is None and total in (str(have), ""):
                return
            _begin_anew(part, on_bytes)
            raise _Again(f"no byte beyond {have}, of {remote.size or total or 'unknown'}")
        if response.status_code == 200:
            if have:
                _begin_anew(part, on_bytes)  # a server that ignores Range sends all of it
        elif response.status_code == 206:
            start = response.headers.get("Content-Range", "").removeprefix("bytes ")
            if start.partition("-")[0] != str(have):
                _begin_anew(part, on_bytes)
                raise _Again(f"bytes {start!r} instead of those from {have}")
        else:
            raise _answer(response, remote.url)
        with part.open("ab") as file:
            # Whatever has come, where iter_content would lose up to a chunk at a cut.
            while piece := response.raw.read1(CHUNK):
                file.write(piece)
                on_bytes(len(piece))
                if remote.size is not None and file.tell() > remote.size:
                    return  # too much, whatever comes: `_wrong` says so
    if remote.size is not None and part.stat().st_size < remote.size:
        raise _Again(f"{part.stat().st_size} of {remote.size} bytes")


def _begin_anew(part: Path, on_bytes: Callable[[int], None]) -> None:
    on_bytes(-part.stat().st_size)
    os.truncate(part, 0)


def _get(url: str, start: int, patience: Patience) -> requests.Response:
    """An answer whose body has not been read; from a byte on where `start` is above 0."""
    _require_safe(url)
    headers = {"User-Agent": AGENT, "Accept-Encoding": "identity"}  # bytes as they are counted
    if start:
        headers["Range"] = f"bytes={start}-"
    timeout = (patience.connect, patience.silence)
    response = requests.get(url, headers=headers, stream=True, timeout=timeout)
    for hop in (*response.history, response):
        if urlsplit(url).scheme == "https" and urlsplit(hop.url).scheme != "https":
            response.close()
            raise BadInput(f"{url} leads to {hop.url}, which is not HTTPS; nothing was fetched")
    return response


def _require_safe(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOCAL):
        raise BadInput(f"{url}: an address that begins with https:// is expected")


def _answer(response: requests.Response, url: str) -> Exception:
    """What an answer without the file means: wait, or a sentence."""
    status = response.status_code
    if status in WAITED_OUT:
        asked = Retry().get_retry_after(response.raw)  # pyright: ignore - urllib3's own answer
        return _Again(f"{status} {response.reason}", asked)
    why = {
        401: "wants a login",
        403: "refuses",
        404: "does not have it: the record may have moved on",
        410: "has it no more",
    }.get(status, "answers with something else than a file")
    return BadInput(
        f"{url}: the server {why} ({status} {response.reason}); fetch it by hand from its record, "
        "put it beside the other archives, and run the same command again"
    )


def _patiently(
    once: Callable[[], None], have: Callable[[], int], url: str, patience: Patience
) -> None:
    """Does something until it is done; waits longer from failure to failure without progress."""
    failures, most = 0, have()
    while True:
        try:
            once()
            return
        except CUT as error:
            why: Exception = error
        except _Again as error:
            why = error
        except requests.RequestException as error:  # too many redirects, a broken address
            raise BadInput(f"{url} cannot be fetched ({error})") from None
        # More than ever, or a file that is begun anew again and again would count as progress.
        failures = 1 if have() > most else failures + 1
        most = max(most, have())
        if failures >= patience.failures:
            raise BadInput(
                f"{url}: given up after {failures} failures in a row, the last: {_short(why)}; "
                "the same command goes on from what is there"
            )
        asked = getattr(why, "wait", None) or 0
        if asked > patience.asked:
            raise BadInput(
                f"{url}: the server asks to wait {asked:.0f} s; what is there stays, run the same "
                "command again then"
            )
        # Spread, so that many who were cut at once do not come back at once.
        usual = min(patience.longest, patience.first * 2 ** (failures - 1))
        time.sleep(max(asked, usual * random.uniform(0.5, 1)))


def _short(error: Exception) -> str:
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    return str(error).partition("\n")[0][:200] or type(error).__name__


def _wrong(path: Path, remote: Remote) -> str | None:
    """How a file differs from what was stated of it; None where it does not."""
    size = path.stat().st_size
    if remote.size is not None and size != remote.size:
        more = "more than " if size > remote.size else f"{size} of "
        return f"has {more}the {remote.size} bytes that its record states"
    if remote.md5 is not None and (found := md5_of(path)) != remote.md5:
        return f"has md5 {found}, but its record states {remote.md5}"
    return None


def md5_of(path: Path) -> str:
    """Hex md5 of a file's content: what Zenodo states, no protection against malice."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
