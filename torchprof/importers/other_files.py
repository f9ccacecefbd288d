"""What a file is that is none of those that are read here, by how it begins: for messages."""

from __future__ import annotations

from typing import Final

__all__ = ["what_else"]

_UTF_16: Final = "text in UTF-16, such as PowerShell writes: convert it, as with iconv -f UTF-16 -t UTF-8"
_BEGINNINGS: Final = (
    (b"PK\x03\x04", "a zip archive: unpack it first, or read what torchprof saved with torchprof.load(path)"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"\x28\xb5\x2f\xfd", "packed by Zstandard: unpack it first"),
    (b"BZh", "packed by bzip2: unpack it first"),
    (b"\xfd7zXZ", "packed by xz: unpack it first"),
    (b"\xff\xfe", _UTF_16),
    (b"\xfe\xff", _UTF_16),
    (b"{\x00", _UTF_16),
    (b"[\x00", _UTF_16),
    (b"\x00{", _UTF_16),
    (b"\x00[", _UTF_16),
    (b"version https://git-lfs", "a pointer of Git LFS: get the file itself with git lfs pull"),
    (b"\x80", "a pickle"),
    (b"\x1f\x8b", "packed by gzip twice: unpack it first"),
    (b"{", "JSON: read what torch.profiler wrote with torchprof.load(path)"),
    (b"[", "JSON: read what torch.profiler wrote with torchprof.load(path)"),
    (b"<", "a page such as that of memory_viz"),
)


def what_else(begins: bytes) -> str:
    """What a file with this beginning is; empty where that is not known."""
    if not begins:
        return "empty"
    text = begins.removeprefix(b"\xef\xbb\xbf").lstrip()
    return next((what for mark, what in _BEGINNINGS if begins.startswith(mark) or text.startswith(mark)), "")
