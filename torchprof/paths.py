"""Files at paths: opened to be read, and written as a whole or not at all."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any, BinaryIO

from torchprof.errors import ArgumentError
from torchprof.wording import shown

__all__ = ["AnyPath", "new_file", "opened", "text_of", "text_written", "written"]

AnyPath = str | bytes | os.PathLike[str] | os.PathLike[bytes]


def text_of(path: Any, name: str = "path") -> str:
    """A path as text.

    Args:
        name: of the argument that it is.

    Raises:
        ArgumentError: it is not a path. ``open`` takes numbers, for open files.
    """
    if not isinstance(path, str | bytes | os.PathLike):
        raise ArgumentError(f"{name}={shown(path)} is not a path")
    return os.fsdecode(path)


def opened(path: Any) -> io.BufferedReader:
    """The file at this path, to be read.

    Raises:
        OSError: it cannot be opened.
        ArgumentError: the path is not a path.
    """
    name = text_of(path)
    try:
        return open(name, "rb")
    except ValueError as error:  # not an OSError, as where it contains a null character
        raise ArgumentError(f"path={shown(path)} is not a path: {error}") from None


@contextmanager
def written(path: Any) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of the one at this path when the block ends: where it raises, the old file stays.

    What is no plain file, such as ``/dev/stdout``, is written to directly.

    Raises:
        OSError: it cannot be written.
        ArgumentError: the path is not a path.
    """
    name = text_of(path)
    try:
        place = os.path.realpath(name)  # what a link points to is replaced, and not the link
        is_new = not (os.path.exists(name) or os.path.lexists(place))  # a pipe behind /dev/stdout is at no place
    except ValueError as error:
        raise ArgumentError(f"path={shown(path)} is not a path: {error}") from None
    if not name or not (is_new or os.path.isfile(name)):
        with _named(name), open(name, "wb") as file:
            yield file
        return
    if not is_new and not os.access(place, os.W_OK):
        raise PermissionError(13, "Permission denied", name)
    beside = f"{place}.{os.urandom(4).hex()}.part"
    try:
        # With the rights that a new file has here.
        number = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o666)
    except OSError as error:
        raise type(error)(error.errno, error.strerror, name) from None
    try:
        with _named(name), open(number, "wb") as file:
            yield file
        if not is_new:
            os.chmod(beside, os.stat(place).st_mode & 0o7777)
        os.replace(beside, place)
    except BaseException:
        with suppress(OSError):
            os.unlink(beside)
        raise


@contextmanager
def new_file(folder: Any, stem: str, suffix: str) -> Iterator[str]:
    """The path of a file to write in a folder, which is made: ``stem.suffix``, or with the first number that makes it new:
    ``stem-2.suffix``. An empty file holds the name, also against other processes; where the block raises, it is removed.

    Raises:
        OSError: the folder cannot be made, or written to.
        ArgumentError: the folder is not a path.
    """
    place = text_of(folder, "folder")
    try:
        os.makedirs(place, exist_ok=True)
        path = _held(place, stem, suffix)
    except ValueError as error:
        raise ArgumentError(f"folder={shown(folder)} is not a path: {error}") from None
    try:
        yield path
    except BaseException:
        with suppress(OSError):
            os.unlink(path)
        raise


def _held(folder: str, stem: str, suffix: str) -> str:
    for number in count(1):
        path = os.path.join(folder, f"{stem}{suffix}" if number == 1 else f"{stem}-{number}{suffix}")
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o666))
            return path
    raise AssertionError("there is no last number")


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Errors of writing, such as that the disk is full, do not say of which file."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = name
        raise


def text_written(text: str, path: AnyPath | None) -> str:
    """The text; also written to ``path`` if given.

    Raises:
        OSError: the file cannot be written.
        ArgumentError: the path is not a path.
    """
    if path is not None:
        with written(path) as file:
            file.write(text.encode())
    return text
