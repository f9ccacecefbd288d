"""What files of Python are called here."""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["cell_of"]


def cell_of(path: str) -> str | None:
    """``In[3]``, where this file is a cell of the notebook that is running; None where it is none."""
    try:
        shell: Any = sys.modules["IPython"].get_ipython()
        found = shell.compile.format_code_name(path)
        return str(found[1]) if found else None
    except Exception:  # there is no shell, or an older one
        return None
