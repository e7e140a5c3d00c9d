"""Writing a file so that its name always stands for a complete old or a complete new content."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from typing import BinaryIO

from cnnfast.errors import WeightsError

try:
    import fcntl
except ImportError:  # Windows, where a file that somebody writes to cannot be removed
    fcntl = None  # type: ignore[assignment]

_TEMPORARY = re.compile(r"\.cnnfast-[0-9a-f]{16}\.tmp")
_OLD_SECONDS = 3600.0


@contextlib.contextmanager
def replace_file(path: str) -> Iterator[BinaryIO]:
    """Give a new file to write to, which takes the place of ``path`` when the block ends well.

    The content goes to a temporary file in the same directory (``.cnnfast-*.tmp``) and to the disk before
    it is renamed, so that a crash leaves the old file. An exception removes the temporary file; what a
    killed process has left behind is removed an hour later, when the next file is written there.

    Parameters
    ----------
    path : str
        File to create or replace. A symbolic link is followed, as ``open`` does. An existing file keeps
        its permissions, a new one gets those that the umask leaves.

    Yields
    ------
    BinaryIO
        A seekable file, open for writing.
    """
    target = os.path.realpath(path)
    directory = os.path.dirname(target)
    os.stat(directory)  # a missing directory is reported by its own name, not by that of the temporary file
    mode = _mode_of_existing(target)
    temporary = os.path.join(directory, f".cnnfast-{secrets.token_hex(8)}.tmp")
    try:
        # "x" creates with mode 0666 less the umask and never follows a link that somebody put there.
        with open(temporary, "xb") as file:
            _lock(file.fileno())  # until the file is closed, also by the end of the process
            if mode is not None:
                os.chmod(temporary, mode)
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    sync_directory(directory)
    with contextlib.suppress(OSError):
        _remove_abandoned(directory)


def _lock(descriptor: int) -> bool:
    """Whether nobody else holds the file; it is held by this process then."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held, or a file system without locks, where nothing is known
        return False
    return True


def _remove_abandoned(directory: str) -> None:
    """Remove temporary files that have not been written to for an hour and that no process holds."""
    with os.scandir(directory) as entries:
        found = [e.path for e in entries if _TEMPORARY.fullmatch(e.name) and e.is_file(follow_symlinks=False)]
    for path in found:
        with contextlib.suppress(OSError):  # gone already, or not ours to remove
            if time.time() - os.stat(path, follow_symlinks=False).st_mtime < _OLD_SECONDS:
                continue  # perhaps about to be locked
            descriptor = os.open(
                path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
            )
            try:
                abandoned = _lock(descriptor)
            finally:
                os.close(descriptor)
            if abandoned:
                os.unlink(path)


def _mode_of_existing(target: str) -> int | None:
    try:
        status = os.stat(target)
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), target)
    if not stat.S_ISREG(status.st_mode):
        raise WeightsError("file: expected a regular file or a new name, came a device, pipe or socket")
    if not os.access(target, os.W_OK):
        # A rename would get past the write protection of a file.
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), target)
    return stat.S_IMODE(status.st_mode)


def sync_directory(directory: str) -> None:
    """Make the rename itself last; some file systems cannot, and say so with EINVAL."""
    if os.name == "nt":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
