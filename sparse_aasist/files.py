"""Atomic writing (a file appears complete under its final name, or not at all) and reading."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sparse_aasist.errors import SparseAasistError


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; move it onto `path` when the block succeeds.

    The temporary keeps the suffix of `path`, because several writers choose the format by it.
    When the block raises, the temporary is removed and whatever stood under `path` is untouched.

    Args:
        path: final file name; its parent folder is created.

    Raises:
        OSError: the folder cannot be written or the disk is full; names `path`.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            prefix=".", suffix=f".partial{path.suffix}", dir=path.parent
        )
    except OSError as error:
        raise _named(error, path) from error
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        with open(partial, "rb") as written:
            os.fsync(written.fileno())
        # mkstemp makes files private; give the usual permissions back.
        partial.chmod(0o666 & ~_umask())
        os.replace(partial, path)
    except OSError as error:
        raise _named(error, path) from error
    finally:
        partial.unlink(missing_ok=True)


def digest(path: str | os.PathLike[str]) -> str:
    """Return the sha256 of a file, which tells whether results were made from it as it is now.

    Raises:
        SparseAasistError: the file cannot be read; names it.
    """
    try:
        with open(path, "rb") as file:
            found = hashlib.sha256()
            while block := file.read(1 << 20):
                found.update(block)
            return found.hexdigest()
    except OSError as error:
        raise SparseAasistError(
            f"{path}: cannot be read ({error.strerror}); check the path"
        ) from error


def check_writable(folder: str | os.PathLike[str]) -> None:
    """Create `folder` if need be and make sure that files can be written in it.

    Raises:
        SparseAasistError: it cannot be created or written; names it.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SparseAasistError(
            f"{folder}: cannot create the output directory ({error.strerror})"
        ) from error
    if not os.access(folder, os.W_OK):
        raise SparseAasistError(f"{folder}: the output directory is not writable")


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` (UTF-8) to `path` atomically."""
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8")


def read_lines(
    path: str | os.PathLike[str], what: str, error: type[SparseAasistError]
) -> list[str]:
    """Return the lines of the text file `path`, without blank ones at its end.

    Args:
        path: a UTF-8 text file.
        what: what it should be, for the message.
        error: class to raise.

    Raises:
        error: the file cannot be read, is not text, or is empty; names it.
    """
    try:
        text = Path(path).read_text(encoding="utf-8").rstrip()
    except UnicodeDecodeError as cause:
        raise error(f"{path} is not a text file (byte {cause.start}); give a {what}") from cause
    except OSError as cause:
        raise error(f"cannot read {what} {path}: {cause.strerror}; check the path") from cause
    if not text:
        raise error(f"{path} is empty; a {what} has one line per trial")
    return text.split("\n")


def _named(error: OSError, path: Path) -> OSError:
    return type(error)(error.errno, f"cannot write {path}: {error.strerror or error}")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
