"""Records: the rows that tables of figures are made of."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["Record", "none_if_nan", "whole"]

Record = dict[str, Any]
"""One row: values by column name. None where a figure is not known."""


def none_if_nan(value: Any) -> float | None:
    """The value as a float; None where it is not a number."""
    return None if np.isnan(value) else float(value)


def whole(value: float) -> int | float:
    """A count, which is a whole number unless it is a mean."""
    return int(value) if float(value).is_integer() else float(value)
