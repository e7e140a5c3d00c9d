"""Downloads from a server of this test's own: whole, resumed, refused."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnnfast.errors import WeightsError
from cnnfast.weights import download
from cnnfast.weights.hub import cache_folder, fetch
from processes import run_python

BODY = np.random.default_rng(1).bytes(700_001)
DIGEST = hashlib.sha256(BODY).hexdigest()


class Server:
    """What the next answers are like, and which requests have come."""

    def __init__(self) -> None:
        self.body = BODY
        self.etag: str | None = '"one"'
        self.modified: str | None = None
        self.ranges = True  # whether Range is honoured
        self.if_range = True  # whether If-Range is
        self.status = 200
        self.cut: int | None = None  # bytes of the body before the connection ends
        self.location: str | None = None
        self.length = True
        self.chunked = False
        self.encoding: str | None = None
        self.gate: threading.Event | None = None  # waits for it in the middle of the body
        self.halfway = threading.Event()
        self.requests: list[dict[str, str]] = []
        self.address = ""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.requests.append(dict(handler.headers.items()))
        if self.location is not None and not handler.path.startswith("/moved"):
            handler.send_response(302)
            handler.send_header("Location", self.location)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        if self.status != 200:
            handler.send_error(self.status)
            return
        body, start = self.body, 0
        asked = handler.headers.get("Range")
        mark = self.etag or self.modified
        if asked and self.ranges and (not self.if_range or handler.headers.get("If-Range") == mark):
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(body):
                handler.send_error(416)
                return
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            handler.send_response(200)
        body = body[start:]
        for name, value in (
            ("ETag", self.etag),
            ("Last-Modified", self.modified),
            ("Content-Encoding", self.encoding),
            ("Content-Length", str(len(body)) if self.length and not self.chunked else None),
            ("Transfer-Encoding", "chunked" if self.chunked else None),
        ):
            if value is not None:
                handler.send_header(name, value)
        handler.end_headers()
        if self.cut is not None:
            body = body[: self.cut]
        if self.chunked:
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(body), body))
            if self.cut is None:
                handler.wfile.write(b"0\r\n\r\n")
            return
        half = len(body) // 2
        handler.wfile.write(body[:half])
        handler.wfile.flush()
        self.halfway.set()
        if self.gate is not None:
            self.gate.wait(30)
        handler.wfile.write(body[half:])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    monkeypatch.setenv("CNNFAST_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("CNNFAST_OFFLINE", raising=False)
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with contextlib.suppress(ConnectionError):
                state.answer(self)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.daemon_threads = True
        state.address = f"http://127.0.0.1:{http.server_address[1]}"
        thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield state
        finally:
            http.shutdown()
            thread.join()


def kept() -> list[str]:
    """Names in the cache folder, the empty lock files apart."""
    if not cache_folder().is_dir():
        return []
    return sorted(p.name.split("-", 1)[1] for p in cache_folder().iterdir() if p.suffix != ".lock")


def refused(message: str, url: str, *arguments: Any, **options: Any) -> None:
    with pytest.raises(WeightsError) as caught:
        fetch(url, *arguments, **options)
    assert message in str(caught.value), str(caught.value)
    assert str(caught.value).startswith("fetch: ")


# --- whole files -------------------------------------------------------------------------------------


@pytest.mark.parametrize("digest", [DIGEST, DIGEST[:8].upper(), ""])
def test_once_and_then_from_the_cache(server: Server, digest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    url = server.address + "/dir/model-a.pth?download=1"
    path = fetch(url, digest)
    assert path.read_bytes() == BODY
    assert (path.parent, path.suffix) == (cache_folder(), ".pth")
    assert kept() == ["model-a.pth"]
    assert server.requests[0]["Accept-Encoding"] == "identity"
    monkeypatch.setenv("CNNFAST_OFFLINE", "1")
    assert fetch(url, digest) == path
    assert len(server.requests) == 1


def test_offline(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNFAST_OFFLINE", "1")
    refused("CNNFAST_OFFLINE forbids downloads", server.address + "/a.npz")
    assert not cache_folder().exists()
    monkeypatch.setenv("CNNFAST_OFFLINE", "0")
    path = fetch(server.address + "/a.npz", DIGEST)
    path.write_bytes(b"damaged")
    monkeypatch.setenv("CNNFAST_OFFLINE", "1")
    refused("is damaged", server.address + "/a.npz", DIGEST)
    assert not server.requests[1:]


def test_a_damaged_file_in_the_cache_is_fetched_again(server: Server) -> None:
    path = fetch(server.address + "/a.npz", DIGEST)
    path.write_bytes(BODY[:-1] + b"?")
    assert fetch(server.address + "/a.npz", DIGEST).read_bytes() == BODY
    assert len(server.requests) == 2


def test_equal_names_of_different_addresses(server: Server) -> None:
    first = fetch(server.address + "/a/model.safetensors")
    server.body = b"other"
    second = fetch(server.address + "/b/model.safetensors")
    assert first != second
    assert (first.read_bytes(), second.read_bytes()) == (BODY, b"other")


@pytest.mark.parametrize("name", ["/..%2f..%2fetc", "/../../x", "/" + "n" * 300, "/", "/.hidden", "/a%00b"])
def test_files_stay_in_the_folder(server: Server, name: str) -> None:
    path = fetch(server.address + name, DIGEST)
    assert path.resolve().parent == cache_folder().resolve()
    assert not path.name.startswith(".")


def test_an_empty_file(server: Server) -> None:
    server.body = b""
    assert fetch(server.address + "/e").read_bytes() == b""


def test_chunked(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.chunked = True
    server.cut = 1000
    monkeypatch.setattr(BaseHTTPRequestHandler, "protocol_version", "HTTP/1.1")
    refused("the connection broke after", server.address + "/c")
    server.cut = None
    assert fetch(server.address + "/c").read_bytes() == BODY


def test_a_body_of_unknown_length_needs_a_digest(server: Server) -> None:
    server.length = False
    refused("does not say how long", server.address + "/c")
    assert fetch(server.address + "/c", DIGEST[:10]).read_bytes() == BODY
    server.cut = 500
    refused("expected SHA-256", server.address + "/d", DIGEST)
    assert kept() == ["c"]


# --- resuming ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mark", ["etag", "modified"])
def test_resume_after_a_cut(server: Server, mark: str) -> None:
    if mark == "modified":
        server.etag, server.modified = None, "Wed, 21 Oct 2015 07:28:00 GMT"
    url = server.address + "/model.pth"
    server.cut = 300_000
    refused("the connection ended after 300000 of 700001 bytes", url, DIGEST)
    assert kept() == ["model.pth.part", "model.pth.part.json"]
    server.cut = 100_000
    refused("400000 of 700001", url, DIGEST)
    server.cut = None
    assert fetch(url, DIGEST).read_bytes() == BODY
    assert [r.get("Range") for r in server.requests] == [None, "bytes=300000-", "bytes=400000-"]
    assert server.requests[1]["If-Range"] == (server.etag or server.modified)
    assert kept() == ["model.pth"]


@pytest.mark.parametrize("kind", ["no range", "no mark", "weak mark", "changed", "changed, If-Range ignored"])
def test_from_the_beginning_where_the_rest_may_not_fit(server: Server, kind: str) -> None:
    if kind == "no mark":
        server.etag = None
    if kind == "weak mark":
        server.etag = 'W/"one"'
    server.cut = 300_000
    refused("300000 of 700001", server.address + "/m.pth")
    server.cut = None
    server.ranges = kind != "no range"
    if kind.startswith("changed"):
        server.body, server.etag = BODY[::-1] + b"longer", '"two"'
        server.if_range = "ignored" not in kind
    assert fetch(server.address + "/m.pth").read_bytes() == server.body
    assert kept() == ["m.pth"]


def test_a_range_that_begins_elsewhere_is_not_joined(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.cut = 300_000
    refused("300000", server.address + "/m.pth")
    server.cut = None
    send = BaseHTTPRequestHandler.send_header

    def lie(self: BaseHTTPRequestHandler, name: str, value: str) -> None:
        send(self, name, value.replace("bytes 3", "bytes 2") if name == "Content-Range" else value)

    monkeypatch.setattr(BaseHTTPRequestHandler, "send_header", lie)
    assert fetch(server.address + "/m.pth").read_bytes() == BODY


def test_a_range_that_is_refused(server: Server) -> None:
    server.cut = 300_000
    refused("300000", server.address + "/m.pth")
    server.cut, server.body, server.if_range = None, BODY[:200_000], False
    assert fetch(server.address + "/m.pth").read_bytes() == server.body
    assert len(server.requests) == 3


def test_killed_before_the_rename(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(download.os, "replace", stop)
        with pytest.raises(KeyboardInterrupt):
            fetch(server.address + "/m.pth", DIGEST)
    assert kept() == ["m.pth.part", "m.pth.part.json"]
    assert fetch(server.address + "/m.pth", DIGEST).read_bytes() == BODY
    assert len(server.requests) == 1


def test_a_damaged_part_is_found_by_the_digest(server: Server) -> None:
    server.cut = 300_000
    refused("300000", server.address + "/m.pth", DIGEST)
    part = next(cache_folder().glob("*.part"))
    part.write_bytes(b"?" + part.read_bytes()[1:])
    server.cut = None
    refused("expected SHA-256", server.address + "/m.pth", DIGEST)
    assert kept() == []
    assert fetch(server.address + "/m.pth", DIGEST).read_bytes() == BODY


@pytest.mark.parametrize("note", ["", "[]", "{}", '{"size": "x", "mark": "y"}', '{"size": 5, "mark": "y"}'])
def test_a_damaged_note(server: Server, note: str) -> None:
    server.cut = 300_000
    refused("300000", server.address + "/m.pth")
    next(cache_folder().glob("*.json")).write_text(note)
    server.cut = None
    assert fetch(server.address + "/m.pth").read_bytes() == BODY
    assert "Range" not in server.requests[1]


def test_interrupted(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(download._Progress):
        def __call__(self, here: int) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(download, "_Progress", Interrupted)
    monkeypatch.setattr(download.sys.stderr, "isatty", lambda: True, raising=False)
    with pytest.raises(KeyboardInterrupt):
        fetch(server.address + "/m.pth", DIGEST)
    assert kept() == ["m.pth.part", "m.pth.part.json"]
    monkeypatch.undo()


def test_progress(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fetch(server.address + "/1.pth")
    assert capsys.readouterr().err == ""  # no terminal
    monkeypatch.setattr(download.sys.stderr, "isatty", lambda: True, raising=False)
    fetch(server.address + "/2.pth", progress=False)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(download.sys.stderr, "isatty", lambda: True, raising=False)
    fetch(server.address + "/3.pth")
    assert "of 0.7 MB" in capsys.readouterr().err


# --- refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [404, 403, 500, 503])
def test_status(server: Server, status: int) -> None:
    server.status = status
    refused(f"{server.address}/m.pth: status {status}", server.address + "/m.pth", DIGEST)
    assert kept() == []


def test_wrong_digest(server: Server) -> None:
    refused(f"expected SHA-256 01234567, came {DIGEST}", server.address + "/m.pth", "01234567")
    assert kept() == []
    for wrong in ("xyz", "0" * 65):
        refused("hexadecimal digits", server.address + "/m.pth", wrong)
    assert len(server.requests) == 1


def test_redirections(server: Server, tmp_path: Path) -> None:
    server.location = server.address + "/moved/m.pth"
    assert fetch(server.address + "/m.pth", DIGEST).read_bytes() == BODY
    secret = tmp_path / "secret"
    secret.write_text("secret")
    for location, message in [
        (secret.as_uri(), "not allowed"),
        ("ftp://127.0.0.1/x", "expected https, came ftp"),
        ("http://example.invalid/x", "expected https, came http"),
        ("https://127.0.0.1:1/x", "the same scheme"),
        ("http://user:word@127.0.0.1/x", "no user name"),
        (server.address + "/again", "redirect"),
    ]:
        server.location = location
        refused(message, server.address + "/other.pth")
    assert kept() == ["m.pth"]


@pytest.mark.parametrize(
    "url",
    [
        "http://example.invalid/m.pth",
        "ftp://localhost/m.pth",
        "file:///etc/passwd",
        "https://",
        "https://user:word@example.invalid/m.pth",
        "https://example.invalid/a b",
        "https://example.invalid/a\r\nX: y",
        "https://[::1",
        "m.pth",
        "",
    ],
)
def test_addresses_that_are_not_opened(url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CNNFAST_HOME", str(tmp_path))
    monkeypatch.setattr(urllib.request.OpenerDirector, "open", lambda *_, **__: pytest.fail("opened"))
    refused("address: ", url)
    assert os.listdir(tmp_path) == []


def test_nobody_listens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CNNFAST_HOME", str(tmp_path))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        refused("no connection", f"http://127.0.0.1:{taken.getsockname()[1]}/m.pth")


def test_sizes(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    refused("announces 700001", server.address + "/m.pth", max_bytes=700_000)
    server.length = False
    refused("more came", server.address + "/m.pth", DIGEST, max_bytes=300_000)
    server.length = True
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: usage)
    refused("do not fit", server.address + "/n.pth")
    assert "n.pth" not in kept()


def test_compressed_bodies_are_refused(server: Server) -> None:
    server.encoding = "gzip"
    refused("expected plain data, came gzip", server.address + "/m.pth")


@pytest.mark.skipif(os.name == "nt", reason="needs limits of POSIX")
def test_full_disk(server: Server, tmp_path: Path) -> None:
    program = """
        import resource, sys
        from cnnfast.errors import WeightsError
        from cnnfast.weights.hub import cache_folder, fetch
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            fetch(sys.argv[1], "00")
        except WeightsError as error:
            print(error)
        print([p.name for p in cache_folder().iterdir() if p.suffix != ".lock"])
    """
    done = run_python(program, server.address + "/m.pth")
    assert done.returncode == 0, done.stderr
    assert "cannot write" in done.stdout
    assert "File too large" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_folder_that_cannot_be_made(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CNNFAST_HOME", str(tmp_path / "file"))
    refused("CNNFAST_HOME names another folder", server.address + "/m.pth")
    assert not server.requests


def test_two_at_once(server: Server) -> None:
    """The second waits and takes what the first has fetched, also from another process."""
    server.gate = threading.Event()
    found: list[Path] = []
    url = server.address + "/m.pth"
    threads = [threading.Thread(target=lambda: found.append(fetch(url, DIGEST))) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert server.halfway.wait(30)
    for _ in range(3000):  # the server may be ahead of the client
        if kept() == ["m.pth.part", "m.pth.part.json"]:
            break
        threading.Event().wait(0.01)
    else:
        pytest.fail(f"no download under way: {kept()}")
    other: list[str] = []
    program = "import sys; from cnnfast.weights.hub import fetch; print(fetch(sys.argv[1], sys.argv[2]))"
    child = threading.Thread(target=lambda: other.append(run_python(program, url, DIGEST).stdout.strip()))
    child.start()
    server.gate.set()
    for thread in [*threads, child]:
        thread.join(60)
    assert len(server.requests) == 1
    assert {*map(str, found), *other} == {str(found[0])}
    assert len(found) == 3
    assert found[0].read_bytes() == BODY


def test_without_locks_everyone_has_a_file_of_his_own(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(_: Any) -> None:
        raise OSError(download.errno.ENOLCK, "No locks available")

    monkeypatch.setattr(download, "_lock", no_locks)
    assert fetch(server.address + "/m.pth", DIGEST).read_bytes() == BODY
    server.cut = 5
    refused("5 of 700001", server.address + "/n.pth", DIGEST)
    assert kept() == ["m.pth"]


def test_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNFAST_HOME", "~/here")
    assert cache_folder() == Path.home() / "here" / "weights"
    monkeypatch.delenv("CNNFAST_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x/cache")
    monkeypatch.setattr(download.sys, "platform", "linux")
    assert cache_folder() == Path("/x/cache/cnnfast/weights")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "cnnfast" / "weights"
