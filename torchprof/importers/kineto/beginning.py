"""How a file of torch.profiler begins."""

from __future__ import annotations

from typing import Final

__all__ = ["BYTE_ORDER_MARK", "GZIP", "is_json", "may_be_kineto"]

GZIP: Final = b"\x1f\x8b"
BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


def is_json(begins: bytes) -> bool:
    """Whether what begins with these bytes may be JSON."""
    text = begins.removeprefix(BYTE_ORDER_MARK).lstrip()
    return text[:1] in (b"{", b"[") and text[1:2] != b"\0"  # as in UTF-16


def may_be_kineto(begins: bytes) -> bool:
    """Whether what begins with these bytes may be a file of torch.profiler: JSON, or what is packed by gzip."""
    return begins.startswith(GZIP) or is_json(begins)
