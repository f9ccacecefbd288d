"""Attention masks that transformers makes for fake tensors, and leaves out for real ones."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any

from torchprof.estimation.rules.registry import Kind, rule
from torchprof.estimation.target import Target


@rule(
    Kind.PATCH,
    "transformers.masking_utils.find_packed_sequence_indices",
    on=("cpu", "cuda"),
    when="transformers is loaded, and the model is not compiled: under a compiler it makes those masks",
    source="find_packed_sequence_indices in transformers/masking_utils.py: it takes fake tensors for a compiler's, of which it "
    "cannot see whether several sequences are packed into one",
)
@contextmanager
def unpacked_sequences(target: Target) -> Iterator[None]:
    """No sequence has others packed into it, until the block ends."""
    masks: Any = None
    if "transformers" in sys.modules and not target.compiled:
        # The model may still be built: transformers imports what a class needs when the class is first asked for.
        with suppress(ImportError):
            masks = import_module("transformers.masking_utils")
    original = getattr(masks, "find_packed_sequence_indices", None)
    if original is None:
        yield
        return
    masks.find_packed_sequence_indices = lambda *args, **kwargs: None
    try:
        yield
    finally:
        masks.find_packed_sequence_indices = original
