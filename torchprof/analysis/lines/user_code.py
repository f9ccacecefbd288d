"""Which functions are the user's own, and which line of these is behind a stack."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from torchprof.analysis.remembered import remembered
from torchprof.trace.library_files import is_library
from torchprof.trace.trace import Trace

__all__ = ["counted_rows", "has_user_code"]

Ints = npt.NDArray[np.int64]

OF_TORCH: Final = ("/torch/nn/modules/module.py", "/torch/autograd/graph.py", "/torch/optim/optimizer.py")
"""Files that tell where PyTorch is, where it is not installed but built in its sources."""


@remembered
def has_user_code(trace: Trace) -> bool:
    """Whether any function in the stacks is the user's own."""
    return bool(_is_users(trace)[trace.stacks["function"]].any())


@remembered
def counted_rows(trace: Trace, libraries: bool) -> Ints:
    """For every row of ``trace.stacks``, the innermost row in it whose line counts; -1: none.

    Args:
        libraries: whether lines of libraries count: all of which the file is known. They do too where there are no others.
    """
    counts = trace.functions["file"] >= 0 if libraries or not has_user_code(trace) else _is_users(trace)
    of_functions: list[bool] = counts.tolist()
    found: list[int] = []
    columns = zip(trace.stacks["parent"].tolist(), trace.stacks["function"].tolist(), strict=True)
    for row, (parent, function) in enumerate(columns):
        found.append(row if of_functions[function] else found[parent] if parent >= 0 else -1)
    return np.array(found, dtype=np.int64)


def _is_users(trace: Trace) -> npt.NDArray[np.bool_]:
    """Which rows of ``trace.functions`` are the user's own."""
    files = np.unique(trace.functions["file"]).tolist()
    paths = {file: trace.strings[file].replace("\\", "/") for file in files if file >= 0}
    roots = {path[: -len(end)] + "/torch/" for path in paths.values() for end in OF_TORCH if path.endswith(end)}
    users = [file for file, path in paths.items() if not is_library(path) and not path.startswith(tuple(roots - {"/torch/"}))]
    return np.isin(trace.functions["file"], users)
