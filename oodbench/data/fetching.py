"""One file fetched over HTTP, continued where it was cut."""

import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from urllib3.exceptions import HTTPError

from oodbench.data.sources import file_digest, shown
from oodbench.errors import RequestError
from oodbench.files import write_atomically
from oodbench.images import Archive
from oodbench.progress import Progress, Task

TIMEOUT = (15.0, 60.0)
"""Seconds to wait for a connection, and for its next bytes."""
PAUSES = (1.0, 2.0, 4.0, 8.0)
"""Seconds to wait before each further try, of those in a row that brought little."""
_REDIRECTS = 10
_CHUNK = 1 << 18
_TEMPORARY = (408, 425, 429, 500, 502, 503, 504)
_NO_ADDRESS = (
    requests.exceptions.InvalidSchema,
    requests.exceptions.InvalidURL,
    requests.exceptions.MissingSchema,
)
_HTML = (b"<!doctype html", b"<html")


class _Cut(Exception):
    """The connection was lost; what came is kept."""


@dataclass
class _Part:
    """A file that has come in part, and what tells whether the rest belongs to it."""

    path: Path

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    @property
    def _told(self) -> Path:
        return self.path.with_name(f"{self.path.name}.json")

    def known(self) -> dict[str, Any]:
        """Return url, validator and whole size as they were when it was begun."""
        try:
            told = json.loads(self._told.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return told if isinstance(told, dict) else {}

    def begin(self, told: dict[str, Any]) -> None:
        """Start again."""
        self.path.unlink(missing_ok=True)

        def write(path: Path) -> None:
            path.write_text(json.dumps(told), encoding="utf-8")

        write_atomically(self._told, write)

    def drop(self) -> None:
        """Forget it."""
        self.path.unlink(missing_ok=True)
        self._told.unlink(missing_ok=True)

    def finish(self, target: Path) -> None:
        """Put it in place."""
        os.replace(self.path, target)
        self._told.unlink(missing_ok=True)


def fetch(
    archive: Archive, target: Path, by_hand: str, progress: Progress, *, reserve: int = 0
) -> None:
    """Fetch an archive into the file ``target``.

    What has come is in ``<target>.part`` until it is whole and its size and checksum are right.

    Args:
        archive: Where it is, and what is known of it.
        target: File to write.
        by_hand: What to do where it cannot be fetched so, for messages.
        progress: Reports how far it is.
        reserve: Bytes that must be free on the disk beside the archive, for what is made of it.

    Raises:
        RequestError: If it cannot be had, is not what it should be, or there is no room for it.
    """
    url = archive.url
    part = _Part(target.with_name(f"{target.name}.part"))
    failures = 0
    with requests.Session() as session:
        session.max_redirects = _REDIRECTS
        while True:
            before = part.size
            try:
                _continue(session, url, part, archive.size, by_hand, progress, reserve)
                break
            except _Cut as cut:
                failures = failures + 1 if part.size < before + _CHUNK else 1
                if failures > len(PAUSES):
                    come = part.size
                    goes_on = f"the same command goes on from {come:,} bytes" if come else by_hand
                    raise RequestError(f"{url} cannot be downloaded: {cut}; {goes_on}") from None
                time.sleep(PAUSES[failures - 1])
    _verify(part, archive, by_hand)
    part.finish(target)


def _continue(
    session: requests.Session,
    url: str,
    part: _Part,
    size: int,
    by_hand: str,
    progress: Progress,
    reserve: int,
) -> None:
    """Fetch what is missing.

    Raises:
        _Cut: If the connection is lost.
    """
    known = part.known()
    have = part.size if known.get("url") == url else 0
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if known.get("validator"):
            headers["If-Range"] = known["validator"]
    with _answer(session, url, headers, by_hand) as answer:
        if answer.status_code == 416:
            # There is nothing after what has come: it is whole, or it is of another file.
            if have != (_whole(answer, 0) or size):
                part.drop()
                raise _Cut("what had come did not fit; it starts again")
            return
        if answer.status_code >= 400:
            problem = f"{answer.status_code} {answer.reason}".strip()
            if answer.status_code in _TEMPORARY:
                raise _Cut(f"the server says {problem}")
            raise RequestError(f"{url}: the server says {problem}; {by_hand}")
        if have and not _fits(answer, have, known):
            part.drop()
            if answer.status_code == 206:
                raise _Cut("what had come did not fit; it starts again")
            have = 0
        whole = _whole(answer, have)
        if size and whole and whole != size:
            part.drop()
            raise RequestError(
                f"{url} has {whole:,} bytes, not the {size:,} it had; it was changed: {by_hand}"
            )
        if have == 0:
            validator = answer.headers.get("ETag", "")
            if not validator or validator.startswith("W/"):
                validator = answer.headers.get("Last-Modified", "")
            part.begin({"url": url, "validator": validator, "whole": whole})
        _refuse_without_room(part.path.parent, (whole or size) - have, reserve)
        total = whole or size
        done = have if total else 0
        with progress.task(f"downloading {part.path.stem}", total or 1, done) as task:
            _write(answer, url, part, total, by_hand, task)
    if total and part.size < total:
        raise _Cut(f"the connection ended at {part.size:,} of {total:,} bytes")


def _answer(
    session: requests.Session, url: str, headers: dict[str, str], by_hand: str
) -> requests.Response:
    try:
        return session.get(url, headers=headers, stream=True, timeout=TIMEOUT)
    except requests.TooManyRedirects:
        raise RequestError(f"{url} leads in a circle; {by_hand}") from None
    except (*_NO_ADDRESS, UnicodeError) as error:
        raise RequestError(f"{url} leads to no address ({_reason(error)}); {by_hand}") from None
    except requests.RequestException as error:
        raise _Cut(_reason(error)) from None


def _fits(answer: requests.Response, have: int, known: dict[str, Any]) -> bool:
    """Whether an answer goes on where the part ends, with the same file."""
    if answer.status_code != 206:
        return False
    content = answer.headers.get("Content-Range", "")
    wholes = {known.get("whole") or 0, _whole(answer, have)} - {0}
    return content.startswith(f"bytes {have}-") and len(wholes) < 2


def _whole(answer: requests.Response, have: int) -> int:
    """Return the size of the whole file, 0 where the server does not say."""
    ending = answer.headers.get("Content-Range", "").rpartition("/")[2]
    if answer.status_code in (206, 416):
        return int(ending) if ending.isdecimal() else 0
    length = answer.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else 0


def _write(
    answer: requests.Response, url: str, part: _Part, total: int, by_hand: str, task: Task
) -> None:
    """Append the body of an answer to the part."""
    with open(part.path, "ab") as file:
        first = file.tell() == 0
        for data in _pieces(answer):
            if first and _is_page(answer, data):
                part.drop()
                raise RequestError(f"{url} gives a web page, not the archive; {by_hand}")
            first = False
            file.write(data)
            task.advance(len(data) if total else 0)
            if total and file.tell() > total:
                part.drop()
                raise RequestError(f"{url} has more than the {total:,} bytes expected; {by_hand}")


def _pieces(answer: requests.Response) -> Iterator[bytes]:
    try:
        # As it is: some servers call an archive's own compression one of the transport.
        yield from answer.raw.stream(_CHUNK, decode_content=False)
    except (requests.RequestException, HTTPError, OSError) as error:
        raise _Cut(_reason(error)) from None


def _is_page(answer: requests.Response, data: bytes) -> bool:
    kind = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    start = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return kind in ("text/html", "application/xhtml+xml") or start.startswith(_HTML)


def _refuse_without_room(folder: Path, to_come: int, reserve: int) -> None:
    free = shutil.disk_usage(folder).free
    if to_come + reserve > free:
        raise RequestError(
            f"{folder} has room for {free / 1e9:.1f} GB, and {to_come / 1e9:.1f} GB are to come, "
            f"with {reserve / 1e9:.1f} GB for their import; choose another folder with --data-root"
        )


def _verify(part: _Part, archive: Archive, by_hand: str) -> None:
    """Compare a file that has come with what is known of it; drop it if it differs."""
    problem = wrong(part.path, archive)
    if problem:
        part.drop()
        raise RequestError(f"{archive.url}: {problem}; it was deleted; {by_hand}")


def wrong(path: Path, archive: Archive) -> str:
    """Return what of a file is not as its size and checksum say; empty if all is."""
    there = path.stat().st_size
    if archive.size and there != archive.size:
        return f"what came has {there:,} bytes, not {archive.size:,}"
    kind, _, digest = archive.checksum.partition(":")
    if digest and file_digest(path, kind) != digest.lower():
        return f"what came has another {kind} than is known of it"
    return ""


def _reason(error: BaseException) -> str:
    """Return the innermost reason of an error, in few words."""
    while True:
        inner = [getattr(error, "reason", None), *error.args, error.__cause__]
        found = next((one for one in inner if isinstance(one, BaseException)), None)
        if found is None:
            break
        error = found
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return shown(str(error)) or type(error).__name__
