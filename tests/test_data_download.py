"""Sets downloaded from a server on this machine, which misbehaves as it is told."""

import hashlib
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from imported_data import write_set
from picture_files import encoded, pixels, write_tar

from oodbench.data import fetching
from oodbench.datasets.isun import Isun
from oodbench.imported import PackedImages, read_manifest

FILES = {f"iSUN/iSUN_patches/{i}.png": encoded(i) for i in range(200)}


@dataclass
class Server:
    """What a test server gives, how it misbehaves, and what it was asked for.

    Attributes:
        body: The archive.
        cuts: After how many bytes each answer in turn is cut; no cut when they are used up.
        ranges: Whether it can continue.
        etag: Validator of the archive.
    """

    body: bytes
    cuts: list[int] = field(default_factory=list)
    ranges: bool = True
    etag: str = '"one"'
    last_modified: str = ""
    status: int = 200
    kind: str = "application/x-tar"
    location: str = ""
    chunked: bool = False
    length: int | None = None
    asked: list[tuple[str, str]] = field(default_factory=list)
    url: str = ""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        told: Server = self.server.told  # type: ignore[attr-defined]
        asked, condition = self.headers.get("Range", ""), self.headers.get("If-Range", "")
        told.asked.append((asked, condition))
        self.close_connection = True
        first, status = 0, told.status
        if asked and told.ranges and condition in ("", told.etag, told.last_modified):
            first = int(asked.removeprefix("bytes=").removesuffix("-"))
            status = 206 if first < len(told.body) else 416
        self.send_response(status)
        if told.location:
            self.send_header("Location", told.location)
        for name, value in (("ETag", told.etag), ("Last-Modified", told.last_modified)):
            if value:
                self.send_header(name, value)
        self.send_header("Connection", "close")
        self.send_header("Content-Type", told.kind)
        body = told.body[first:] if status in (200, 206) else b""
        if status == 206:
            end = len(told.body)
            self.send_header("Content-Range", f"bytes {first}-{end - 1}/{end}")
        if status == 416:
            self.send_header("Content-Range", f"bytes */{len(told.body)}")
        if told.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(told.length or len(body)))
        self.end_headers()
        cut = told.cuts.pop(0) if told.cuts else None
        body = body[:cut]
        if told.chunked:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(body), body))
            if cut is None:
                self.wfile.write(b"0\r\n\r\n")
        else:
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    body = write_tar(tmp_path / "archive", FILES).read_bytes()
    http = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    told = Server(body, url=f"http://127.0.0.1:{http.server_port}/iSUN.tar.gz")
    http.told = told  # type: ignore[attr-defined]
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield told
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def published(server: Server, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Publish the server's archive as the set isun, with size and checksum or others."""
    monkeypatch.setattr(fetching, "PAUSES", (0.0, 0.0, 0.0))
    # Of the small archives of tests each piece that comes is something.
    monkeypatch.setattr(fetching, "_CHUNK", 1 << 12)
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)

    def published(**fields: Any) -> None:
        digest = hashlib.md5(server.body).hexdigest()
        given = {"url": server.url, "size": len(server.body), "checksum": f"md5:{digest}"}
        archive = replace(Isun.card.archives[0], **(given | fields))
        card = replace(Isun.card, archives=(archive,), images={"test": len(FILES)})
        monkeypatch.setattr(Isun, "card", card)

    published()
    return published


@pytest.fixture
def download(call: Any, root: Path, published: Any) -> Callable[..., Any]:
    """Call ``oodbench data download isun`` into the root of the test."""

    def download(*options: object, name: str = "isun") -> Any:
        return call("data", "download", name, "--data-root", root, *options)

    return download


def whole(result: Any, root: Path) -> None:
    """Check that the set is there, and nothing else."""
    assert result.code == 0, result.err
    images = PackedImages(root / "isun", "test")
    assert len(images) == len(FILES)
    place = list(images.ids).index("17.png")
    assert np.array_equal(images.batch([place])[0], pixels(17).transpose(2, 0, 1))
    assert read_manifest(root / "isun").official
    assert [path.name for path in root.iterdir()] == ["isun"]


def failed(result: Any, root: Path, *parts: str) -> None:
    """Check that one line says what is wrong, and nothing is left."""
    assert result.code == 2
    assert result.out == ""
    assert result.err.count("\n") == 1, result.err
    for part in parts:
        assert part in result.err
    assert list(root.iterdir()) == []


def test_a_set_is_downloaded_verified_imported_and_its_archive_deleted(
    download: Any, server: Server, root: Path
) -> None:
    result = download()
    whole(result, root)
    assert result.out.startswith("imported isun: test 200, official; in ")
    assert server.asked == [("", "")]
    again = download()
    assert again.code == 0
    assert again.out.startswith("already there, unchanged: isun")
    assert len(server.asked) == 1


def test_a_damaged_set_is_downloaded_again(download: Any, server: Server, root: Path) -> None:
    assert download().code == 0
    path = root / "isun" / "test.npy"
    sound = path.read_bytes()
    for damage in (bytes(len(sound)), sound[:-1] + bytes([sound[-1] ^ 1])):
        path.write_bytes(damage)
        result = download()
        whole(result, root)
        assert "it is replaced" in result.err
        assert path.read_bytes() == sound
    (root / "isun" / "set.json").write_text("{")
    asked = len(server.asked)
    refused = download()
    assert refused.code == 2
    assert "set.json is damaged" in refused.err
    assert len(server.asked) == asked
    whole(download("--force"), root)


def test_archives_are_kept_if_asked_and_used_again(
    download: Any, server: Server, root: Path
) -> None:
    assert download("--keep").code == 0
    archive = root / ".downloads" / "iSUN.tar.gz"
    assert archive.read_bytes() == server.body
    assert [path.name for path in archive.parent.iterdir()] == ["iSUN.tar.gz"]
    assert download("--keep", "--force").code == 0
    assert len(server.asked) == 1
    archive.write_bytes(server.body[:-1] + b"x")
    whole(download("--force"), root)
    assert len(server.asked) == 2


@pytest.mark.parametrize("kind", ["ETag", "Last-Modified", "neither"])
def test_a_connection_that_is_cut_is_continued_where_it_was(
    kind: str, download: Any, server: Server, root: Path
) -> None:
    validator = {"ETag": '"one"', "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT", "neither": ""}
    server.etag = validator[kind] if kind == "ETag" else ""
    server.last_modified = validator[kind] if kind == "Last-Modified" else ""
    third = len(server.body) // 3
    server.cuts = [third, third]
    whole(download(), root)
    expected = validator[kind]
    assert server.asked == [
        ("", ""),
        (f"bytes={third}-", expected),
        (f"bytes={2 * third}-", expected),
    ]


def test_a_cut_is_noticed_without_a_length(download: Any, server: Server, root: Path) -> None:
    server.chunked = True
    server.cuts = [len(server.body) // 2]
    whole(download(), root)
    assert len(server.asked) == 2


def test_the_next_command_goes_on_where_one_gave_up(
    download: Any, server: Server, root: Path
) -> None:
    server.cuts = [len(server.body) // 2] + [0] * 4
    result = download()
    assert result.code == 2
    assert result.err.count("\n") == 1
    assert f"goes on from {len(server.body) // 2:,} bytes" in result.err
    assert not (root / "isun").exists()
    assert not (root / ".downloads" / "iSUN.tar.gz").exists()
    server.cuts = []
    server.asked.clear()
    whole(download(), root)
    assert server.asked == [(f"bytes={len(server.body) // 2}-", '"one"')]


def test_a_server_that_cannot_continue_starts_again(
    download: Any, server: Server, root: Path
) -> None:
    server.ranges = False
    server.cuts = [len(server.body) // 2]
    whole(download(), root)
    assert [asked for asked, _ in server.asked] == ["", f"bytes={len(server.body) // 2}-"]


def test_a_file_that_changed_in_between_starts_again(
    download: Any, server: Server, root: Path, published: Any
) -> None:
    good = server.body
    server.body = bytes(len(good))
    server.cuts = [len(good) // 2] + [0] * 4
    assert download().code == 2
    server.body, server.etag, server.cuts = good, '"two"', []
    published()
    whole(download(), root)


def test_what_had_come_whole_before_a_kill_is_not_fetched_again(
    download: Any, server: Server, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fetching, "_verify", killed)
        result = download()
    assert result.code == 130
    assert "what has come is kept" in result.err
    whole(download(), root)
    assert server.asked[1] == (f"bytes={len(server.body)}-", '"one"')


def test_a_wrong_checksum_deletes_what_came(
    download: Any, server: Server, root: Path, published: Any
) -> None:
    published(checksum="md5:" + "0" * 32)
    failed(
        download(),
        root,
        "another md5 than is known of it",
        f"download it by hand from {server.url}",
        f"oodbench data import isun --from ARCHIVE_OR_FOLDER --data-root {root}\n",
    )


def test_a_wrong_length_is_refused_before_it_is_fetched(
    download: Any, server: Server, root: Path, published: Any
) -> None:
    published(size=len(server.body) + 7)
    failed(download(), root, f"has {len(server.body):,} bytes, not the {len(server.body) + 7:,}")
    server.chunked = True
    published(size=len(server.body) - 7)
    failed(download(), root, f"more than the {len(server.body) - 7:,} bytes expected")


def test_an_answer_shorter_than_it_says_is_cut(
    download: Any, server: Server, root: Path, published: Any
) -> None:
    server.length, server.ranges = len(server.body) + 100, False
    published(size=0, checksum="")
    result = download()
    assert result.code == 2
    assert result.err.count("\n") == 1
    assert "cannot be downloaded" in result.err
    assert not (root / "isun").exists()


@pytest.mark.parametrize("start", ["<!DOCTYPE html>", "\n <html lang='en'>", "\ufeff<HTML>"])
@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/octet-stream"])
def test_a_web_page_instead_of_an_archive_is_told_so(
    start: str, kind: str, download: Any, server: Server, root: Path, published: Any
) -> None:
    server.body = f"{start}<p>Sign in</p>".encode()
    server.kind = kind
    published(size=0, checksum="")
    failed(download(), root, "gives a web page, not the archive; download it by hand from")


def test_an_archive_that_a_server_calls_compressed_in_transport_is_kept_as_it_is(
    download: Any, server: Server, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = _Handler.end_headers

    def with_encoding(handler: _Handler) -> None:
        handler.send_header("Content-Encoding", "gzip")
        end(handler)

    monkeypatch.setattr(_Handler, "end_headers", with_encoding)
    whole(download(), root)


@pytest.mark.parametrize("status", [404, 403, 410])
def test_a_file_that_is_not_there_is_told_at_once(
    status: int, download: Any, server: Server, root: Path
) -> None:
    server.status = status
    failed(download(), root, f"the server says {status}", "download it by hand")
    assert len(server.asked) == 1


def test_a_server_that_is_overloaded_is_asked_again_and_then_given_up(
    download: Any, server: Server, root: Path
) -> None:
    server.status = 503
    failed(download(), root, "the server says 503")
    assert len(server.asked) == 4


def test_redirects_in_a_circle_end(download: Any, server: Server, root: Path) -> None:
    server.status, server.location = 302, server.url
    failed(download(), root, "leads in a circle; download it by hand")
    assert len(server.asked) < 20


@pytest.mark.parametrize("location", ["file:///etc/passwd", "gopher://x/"])
def test_a_redirect_to_something_else_is_not_followed(
    location: str, download: Any, server: Server, root: Path
) -> None:
    server.status, server.location = 302, location
    failed(download(), root, "leads to no address")


def test_a_server_that_is_not_there_is_told_in_one_line(
    download: Any, root: Path, published: Any
) -> None:
    published(url="http://127.0.0.1:9/iSUN.tar.gz")
    failed(download(), root, "cannot be downloaded: Connection refused")


def test_a_damaged_archive_without_a_checksum_is_fetched_again_the_next_time(
    download: Any, server: Server, root: Path, published: Any
) -> None:
    good = server.body
    server.body = good[: len(good) // 2]
    published(size=0, checksum="")
    failed(download(), root, "damaged or not complete")
    server.body = good
    assert download().code == 0


def test_an_archive_without_a_checksum_is_kept_where_it_is_not_at_fault(
    download: Any,
    server: Server,
    root: Path,
    published: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    published(size=0, checksum="")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("oodbench.data.importing.SplitWriter.add", full)
        result = download()
    assert result.code == 2
    assert "No space left on device" in result.err
    assert (root / ".downloads" / "iSUN.tar.gz").read_bytes() == server.body
    (write_set(root, "isun", {"test": len(FILES)}) / "test.npy").unlink()
    result = download()
    assert result.code == 2
    assert "holds another set of that name" in result.err
    assert download("--force").code == 0
    assert len(server.asked) == 1


@pytest.mark.parametrize("lacking", [1, 0])
def test_room_for_the_images_is_asked_for_before_the_archive_comes(
    lacking: int, download: Any, server: Server, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = len(server.body) + 2 * len(FILES) * 3 * 32 * 32
    usage = type(shutil.disk_usage("/"))(1 << 40, 0, needed - lacking)
    monkeypatch.setattr("oodbench.data.fetching.shutil.disk_usage", lambda _: usage)
    result = download()
    if lacking:
        assert result.code == 2
        assert "choose another folder with --data-root" in result.err
        assert not list(root.glob(".downloads/*.part"))
    else:
        whole(result, root)


def test_a_set_of_several_files_is_imported_from_all(
    download: Any, server: Server, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scipy.io import savemat

    from oodbench.data.known import known_set

    svhn = known_set("svhn")
    assert svhn is not None
    images = np.stack([pixels(i) for i in range(6)], axis=3)
    savemat(tmp_path / "digits.mat", {"X": images, "y": np.arange(1, 7)[:, None]})
    server.body = (tmp_path / "digits.mat").read_bytes()
    checksum = f"md5:{hashlib.md5(server.body).hexdigest()}"
    archives = tuple(
        replace(one, url=server.url, size=0, checksum=checksum) for one in svhn.card.archives
    )
    card = replace(svhn.card, archives=archives, images={"train": 6, "test": 6})
    monkeypatch.setattr(type(svhn), "card", card)
    result = download(name="svhn")
    assert result.code == 0, result.err
    told = read_manifest(root / "svhn")
    assert told.official
    assert {split: one.images for split, one in told.splits.items()} == {"train": 6, "test": 6}
    assert [path.name for path in root.iterdir()] == ["svhn"]


def test_a_partial_set_of_other_origin_is_not_replaced_unasked(
    download: Any, server: Server, root: Path, call: Any, tmp_path: Path
) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "1.png").write_bytes(encoded("another"))
    imported = call("data", "import", "isun", "--from", tmp_path / "x", "--data-root", root)
    assert imported.code == 0
    result = download()
    assert result.code == 2
    assert "holds another isun (isun: 1 of 200 images" in result.err
    assert server.asked == []
    whole(download("--force"), root)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tinyimages80m", "can be had no more: its authors withdrew it"),
        ("imagenet32", "get Imagenet32_train.zip from https://image-net.org"),
        ("miniplaces", "oodbench data import miniplaces --from ARCHIVE_OR_FOLDER --data-root /"),
        ("isnu", "no image set to download is called 'isnu'; did you mean isun"),
        ("mini", "no image set to download is called 'mini'"),
    ],
)
def test_what_cannot_be_downloaded_is_told_with_what_to_do(
    name: str, message: str, download: Any, server: Server, root: Path
) -> None:
    result = download(name=name)
    assert result.code == 2
    assert result.out == ""
    assert result.err.count("\n") == 1
    assert message in result.err
    assert not root.exists()
