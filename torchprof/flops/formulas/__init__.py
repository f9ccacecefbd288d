"""FLOP formulas of PyTorch's own ops, by subject: those that ``torch.utils.flop_counter`` lacks, and those it has wrong.

A formula is given the arguments of an op, with an `Operand` in place of every tensor, and returns its FLOPs; None where shapes
alone do not say. A multiply-add is two FLOPs, of complex numbers as of real ones.
"""

from __future__ import annotations

from torchprof.flops.formulas import attention, convolution, distance, fourier, linalg, matmul, quantized, recurrent
from torchprof.flops.formulas.formula import FORMULAS, Formula, Operand

__all__ = [
    "FORMULAS",
    "Formula",
    "Operand",
    "attention",
    "convolution",
    "distance",
    "fourier",
    "linalg",
    "matmul",
    "quantized",
    "recurrent",
]
