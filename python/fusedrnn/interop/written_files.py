"""Writing a file so that its path always leads to the whole old file or to the whole new one."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from typing import BinaryIO

from . import _messages

Path = str | os.PathLike[str]


@contextlib.contextmanager
def replacing(owner: str, path: Path) -> Iterator[BinaryIO]:
    """A new file beside `path`, which takes its place, and its permissions, when the block ends without an error."""
    target = os.path.realpath(os.fsdecode(path))  # a symbolic link stays one
    mode: int | None = None
    with contextlib.suppress(FileNotFoundError):
        mode = os.stat(target).st_mode
    if mode is not None and not stat.S_ISREG(mode):
        raise ValueError(_messages.attribute(owner, "path", os.fsdecode(path), "a regular file, or a new name"))
    folder, name = os.path.split(target)
    temporary = os.path.join(folder, f".{name[:100]}.{secrets.token_hex(8)}")
    file = os.fdopen(os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666), "w+b")
    try:
        with file:
            if mode is not None:
                os.chmod(temporary, stat.S_IMODE(mode))
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
