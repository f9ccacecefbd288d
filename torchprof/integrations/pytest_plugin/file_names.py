"""Names of files for tests."""

from __future__ import annotations

import hashlib
import re
from typing import Final

__all__ = ["file_name"]

LONGEST: Final = 120
UNSAFE: Final = re.compile(r"[^\w.=+-]+")


def file_name(nodeid: str) -> str:
    """The name of the file for the trace of a test, which is safe everywhere, and which no other test has.

    Example:
        >>> file_name("tests/test_net.py::test_step")
        'tests.test_net.test_step.torchprof'
    """
    plain = nodeid.replace(".py::", "::").replace("::", ".").replace("/", ".").replace("\\", ".")
    safe = UNSAFE.sub("_", plain).strip("._-") or "test"
    is_plain = safe == plain and safe.isascii() and len(safe) <= LONGEST
    if not is_plain or "." in nodeid.replace(".py::", "::").replace("::", "/"):  # another test may come to the same name
        safe = f"{safe.encode('ascii', 'replace').decode().replace('?', '_')[:LONGEST]}-{digest(nodeid)}"
    return f"{safe}.torchprof"


def digest(nodeid: str) -> str:
    return hashlib.sha256(nodeid.encode("utf-8", "surrogatepass")).hexdigest()[:8]
