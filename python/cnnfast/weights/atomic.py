"""Writing a file so that its name always stands for a complete old or a complete new content."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from typing import BinaryIO

from cnnfast.errors import WeightsError


@contextlib.contextmanager
def replace_file(path: str) -> Iterator[BinaryIO]:
    """Give a new file to write to, which takes the place of ``path`` when the block ends well.

    The content goes to a temporary file in the same directory (``.cnnfast-*.tmp``) and to the disk before
    it is renamed, so that a crash leaves the old file. An exception removes the temporary file; only a
    killed process can leave one behind.

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
