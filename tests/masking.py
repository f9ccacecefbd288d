"""Printed text without what differs from run to run, so that it can be compared with what is written down."""

from __future__ import annotations

import re
from typing import Final

TIME: Final = re.compile(r"\d[\d,.]* (?:ns|us|ms|s|min)\b")
SHARE: Final = re.compile(r"\d+\.\d%")
OF_CONVOLUTIONS: Final = re.compile(r"(Forward allocated: ).*( \(measured\))")
RANGE: Final = re.compile(r"[+-]\d[\d,.]*(?:%| (?:ns|us|ms|s))? to (?=[+-])")
MOSTLY: Final = re.compile(r"\bmostly (?=slower|faster)")
RATE: Final = re.compile(r"\d[\d,.]* ?[kMGTP]?i?(?:FLOP|B)/s")


def masked(text: str) -> str:
    """Times, ranges of them, shares and rates as ``*``; widths of columns and of rules, which follow from them, as one.

    So is what a forward pass allocated: kernels of convolutions take what the CPU and the version of PyTorch make of them.
    """
    text = OF_CONVOLUTIONS.sub(r"\1*\2", text)
    text = MOSTLY.sub("", RANGE.sub("* to ", text))
    for pattern in (RATE, TIME, SHARE):
        text = pattern.sub("*", text)
    lines = [re.sub(r"(?<=\S) +", " ", line).rstrip() for line in text.strip("\n").splitlines()]
    return "\n".join(re.sub(r"^([-=])\1{3,}$", r"\1", line) for line in lines)
