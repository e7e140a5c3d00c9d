"""Files from the network into a folder of their own: whole, checked, and fetched once."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import json
import os
import re
import secrets
import shutil
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from cnnfast.errors import WeightsError
from cnnfast.weights.atomic import sync_directory
from cnnfast.weights.limits import MAX_FILE_BYTES, shown

__all__ = ["cache_folder", "fetch"]

TIMEOUT = 30  # seconds without a byte
_BLOCK = 1 << 18
_LOCAL = ("localhost", "127.0.0.1", "::1")


def cache_folder() -> Path:
    """Where fetched files are kept.

    ``CNNFAST_HOME/weights`` where that variable is set; else in the cache folder of the system
    (``$XDG_CACHE_HOME`` or ``~/.cache`` on Linux, ``~/Library/Caches``, ``%LOCALAPPDATA%``). Its files may be
    deleted at any time.
    """
    if home := os.environ.get("CNNFAST_HOME"):
        return Path(home).expanduser() / "weights"
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "cnnfast" / "weights"


def fetch(url: str, sha256: str = "", *, progress: bool = True, max_bytes: int = MAX_FILE_BYTES) -> Path:
    """The file of an address, from the cache folder or else from the network.

    Parameters
    ----------
    url : str
        ``https``; plain ``http`` is for this machine alone.
    sha256 : str
        The digest or its first digits, as many as are known. A file that is in the cache already is
        compared with it as well.
    progress : bool
        Show a line that counts on stderr, if that is a terminal.
    max_bytes : int
        Refuse larger files.

    Returns
    -------
    Path
        A complete file in :func:`cache_folder`. It is written under another name, flushed to the disk and
        renamed when its length and digest are right, so nothing incomplete is ever there. Processes that
        ask for the same address wait for the first of them.

    Raises
    ------
    WeightsError
        With the address and the reason: no connection, a status other than 200, a body cut short (what came
        is kept, and the next call goes on from there if the server can), a wrong digest (the file is
        deleted), a redirection away from https, no space or no right to write, or no cached file while
        ``CNNFAST_OFFLINE=1`` forbids downloads.
    """
    try:
        _check_address(url)
        digest = sha256.lower()
        if not re.fullmatch("[0-9a-f]{0,64}", digest):
            raise WeightsError(f"SHA-256: expected up to 64 hexadecimal digits, came {shown(sha256)}")
        folder = cache_folder()
        final = folder / _file_name(url)
        if _is_right(final, digest):
            return final
        if os.environ.get("CNNFAST_OFFLINE", "0") not in ("", "0"):
            state = "damaged" if final.exists() else "not there"
            raise WeightsError(f"{final} is {state}, and CNNFAST_OFFLINE forbids downloads")
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(final) as part:
            # Whoever held the lock before may have fetched it.
            if not _is_right(final, digest):
                _download(url, part, digest, progress, max_bytes)
                os.replace(part.path, final)
                part.forget()
                sync_directory(str(folder))
        return final
    except WeightsError as error:
        raise WeightsError(f"fetch: {shown(url, 500)[1:-1]}: {error}") from None
    except OSError as error:
        where = error.filename or cache_folder()
        raise WeightsError(
            f"fetch: {url}: cannot write {where}: {error.strerror or error}; "
            "CNNFAST_HOME names another folder"
        ) from error


def _check_address(url: str) -> urllib.parse.SplitResult:
    if not isinstance(url, str) or not url.isascii() or re.search(r"[\x00-\x20\x7f]", url):
        raise WeightsError("address: expected ASCII without spaces")
    try:
        parts = urllib.parse.urlsplit(url)
        host = parts.hostname
    except ValueError as error:
        raise WeightsError(f"address: {error}") from None
    if not host or parts.username is not None or parts.password is not None:
        raise WeightsError("address: expected a host, and no user name or password")
    if parts.scheme != "https" and not (parts.scheme == "http" and host in _LOCAL):
        raise WeightsError(f"address: expected https, came {parts.scheme}")
    return parts


def _file_name(url: str) -> str:
    """A file name that tells what it is and differs for every address; the ending stays."""
    last = urllib.parse.urlsplit(url).path.rsplit("/", 1)[-1]
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", last)[-100:].lstrip(".") or "file"
    return f"{hashlib.sha256(url.encode()).hexdigest()[:12]}-{plain}"


def _is_right(path: Path, digest: str) -> bool:
    return path.is_file() and (not digest or _sha256(path).startswith(digest))


def _sha256(path: Path) -> str:
    total = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            total.update(block)
    return total.hexdigest()


# --- one download ----------------------------------------------------------------------------------


class _Part:
    """A file on its way, and beside it what the server said about the version that is being fetched."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.note = path.with_name(path.name + ".json")

    def begin(self, version: dict[str, Any]) -> None:
        # In this order: bytes of one version never stand beside the note of another.
        self.note.unlink(missing_ok=True)
        self.path.write_bytes(b"")
        self.note.write_text(json.dumps(version))

    def resumable(self) -> tuple[int, dict[str, Any]]:
        """How many bytes are here and of which version; 0 where that cannot be told."""
        try:
            version = json.loads(self.note.read_text())
            here, size, mark = self.path.stat().st_size, version["size"], version["mark"]
        except (OSError, ValueError, KeyError, TypeError):
            return 0, {}
        usable = isinstance(size, int) and isinstance(mark, str) and mark and here <= size
        return (here, version) if usable else (0, {})

    def forget(self) -> None:
        for path in (self.path, self.note):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def _download(url: str, part: _Part, digest: str, progress: bool, max_bytes: int) -> None:
    """Bring ``part`` to its full length and check it."""
    here, version = part.resumable()
    if not here or here < version["size"]:
        _transfer(url, part, digest, progress, max_bytes)
    came = _sha256(part.path) if digest else ""
    if not came.startswith(digest):
        part.forget()
        raise WeightsError(f"expected SHA-256 {digest}, came {came}; the file was deleted")
    with open(part.path, "rb+") as file:
        os.fsync(file.fileno())


def _transfer(url: str, part: _Part, digest: str, progress: bool, max_bytes: int) -> None:
    here, version = part.resumable()
    response = _ask(url, here, version.get("mark", "")) if here else None
    if response is not None and response.status == 206 and not _goes_on(response, here, version):
        response.close()
        response = None
    if response is None:
        response = _ask(url)
    assert response is not None  # only a range can be refused
    with response:
        if response.status == 200:
            here, version = 0, _version(response)
        elif response.status != 206 or not here:
            raise WeightsError(f"status {response.status} {response.reason}")
        size = version["size"]
        if size is None and not digest and not getattr(response, "chunked", False):
            raise WeightsError("the server does not say how long the file is, and no digest is known")
        if size is not None and size > max_bytes:
            raise WeightsError(f"expected at most {max_bytes} bytes, the server announces {size}")
        if size is not None and size - here > (free := shutil.disk_usage(part.path.parent).free):
            raise WeightsError(f"{size - here} bytes do not fit: {part.path.parent} has {free} left")
        if here == 0:
            part.begin(version)
        try:
            with open(part.path, "rb+") as file:
                file.seek(here)
                here = _receive(response, file, here, size, max_bytes, progress)
        except OSError as error:
            if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG):
                part.forget()  # others need the space too
            raise
    if size is not None and here != size:
        raise WeightsError(f"the connection ended after {here} of {size} bytes; call again to go on")


def _receive(
    response: Any, file: IO[bytes], here: int, size: int | None, max_bytes: int, progress: bool
) -> int:
    """Write the body after ``here`` bytes; returns how many there are then."""
    shows = _Progress(size) if progress and sys.stderr is not None and sys.stderr.isatty() else None
    try:
        while True:
            try:
                block = response.read(_BLOCK)
            except (OSError, http.client.HTTPException) as error:
                file.flush()
                of = f" of {size}" if size is not None else ""
                reason = str(error) or type(error).__name__
                raise WeightsError(f"the connection broke after {here}{of} bytes: {reason}") from None
            if not block:
                return here
            here += len(block)
            if here > (max_bytes if size is None else size):
                raise WeightsError(f"expected at most {size or max_bytes} bytes, more came")
            file.write(block)
            if shows is not None:
                shows(here)
    finally:
        if shows is not None:
            shows.end()


def _ask(url: str, start: int = 0, mark: str = "") -> Any:
    """Open an address from byte ``start`` on; None if that range is refused."""
    from cnnfast import __version__

    headers = {"User-Agent": f"cnnfast/{__version__}", "Accept-Encoding": "identity"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": mark}
    request = urllib.request.Request(url, headers=headers)
    opener = urllib.request.OpenerDirector()
    # Neither files nor ftp: only what is named here can be opened.
    local = urllib.parse.urlsplit(url).hostname in _LOCAL
    for handler in (
        urllib.request.ProxyHandler({} if local else None),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirections(),
    ):
        opener.add_handler(handler)
    try:
        response = opener.open(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        with error:
            if start and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                return None
            raise WeightsError(f"status {error.code} {error.reason}") from None
    except urllib.error.URLError as error:
        raise WeightsError(f"no connection: {error.reason}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise WeightsError(f"no connection: {str(error) or type(error).__name__}") from None
    if response is None:
        raise WeightsError("no connection: the address cannot be opened")
    if response.headers.get("Content-Encoding", "identity") != "identity":
        with response:
            raise WeightsError(f"expected plain data, came {response.headers['Content-Encoding']}")
    return response


class _Redirections(urllib.request.HTTPRedirectHandler):
    """Followed only where the first address could have been the new one."""

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        try:
            if _check_address(newurl).scheme != urllib.parse.urlsplit(req.full_url).scheme:
                raise WeightsError("address: expected the same scheme as before")
        except WeightsError as error:
            fp.close()
            raise WeightsError(f"redirected to {shown(newurl)}: {error}") from None
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _version(response: Any) -> dict[str, Any]:
    """Which version of the file the server sends: its size, and a mark that changes with it."""
    length = response.headers.get("Content-Length", "")
    etag = response.headers.get("ETag", "")
    strong = etag.startswith('"')  # a weak one, W/"...", does not promise the same bytes
    return {
        "size": int(length) if length.isascii() and length.isdigit() else None,
        "mark": etag if strong else response.headers.get("Last-Modified", ""),
    }


def _goes_on(response: Any, here: int, version: dict[str, Any]) -> bool:
    """Whether the answer to a range begins where it was asked to, in the version that is here."""
    place = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", response.headers.get("Content-Range", "").strip())
    expected = (here, version["size"] - 1, version["size"])
    if place is None or tuple(map(int, place.groups())) != expected:
        return False
    return bool(_version(response)["mark"] == version["mark"])


# --- alone -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def _alone(final: Path) -> Iterator[_Part]:
    """The unfinished file beside ``final``, for this process alone.

    The lock goes away with the process that holds it; its empty file stays. Where the file system has no
    locks everyone gets a file of his own, which then is not resumed.
    """
    with open(final.with_name(final.name + ".lock"), "ab") as file:
        try:
            _lock(file)
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
            part = _Part(final.with_name(f"{final.name}.{secrets.token_hex(6)}.part"))
            try:
                yield part
            finally:
                part.forget()
            return
        yield _Part(final.with_name(final.name + ".part"))


if sys.platform == "win32":
    import msvcrt

    def _lock(file: IO[bytes]) -> None:
        while True:
            try:
                file.seek(0)
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
                return
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EDEADLK):
                    raise
                time.sleep(0.1)

else:
    import fcntl

    def _lock(file: IO[bytes]) -> None:
        fcntl.flock(file, fcntl.LOCK_EX)


class _Progress:
    """One line on stderr that counts, a few times a second."""

    def __init__(self, size: int | None) -> None:
        self.of = "" if size is None else f" of {size / 1e6:.1f}"
        self.last = 0.0

    def __call__(self, here: int) -> None:
        now = time.monotonic()
        if now - self.last > 0.2:
            self.last = now
            sys.stderr.write(f"\r{here / 1e6:.1f}{self.of} MB")
            sys.stderr.flush()

    def end(self) -> None:
        sys.stderr.write("\r" + " " * 40 + "\r")
        sys.stderr.flush()
