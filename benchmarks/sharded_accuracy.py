"""How near estimates of one rank come: predicted peaks on the CPU against those of real gloo processes, one row for each
architecture, way to split it and rank.

    python benchmarks/sharded_accuracy.py              all programs of tests/sharded_programs.py
    python benchmarks/sharded_accuracy.py mlp-fsdp     some
"""

from __future__ import annotations

import logging
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from sharded_programs import PROGRAMS, measured

from torchprof import EstimateError


def main(names: list[str]) -> int:
    """Print the rows and what they come to; returns 0."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as path:
        truth = measured(names, Path(path))
    print(f"torch {torch.__version__}, cpu, peaks in bytes")
    print(f"{'program':24} {'rank':>4} {'measured':>14} {'predicted':>14} {'error':>8}")
    errors: list[float] = []
    seconds = 0.0
    for name, ranks in truth.items():
        for rank, (first, later) in enumerate(ranks):
            # DDP may need most in its first step, in which it makes its buckets anew.
            peak = max(first, later) if "ddp" in name else later
            begin = time.perf_counter()
            try:
                found = PROGRAMS[name].estimated(rank).max_allocated
            except (EstimateError, RuntimeError) as error:
                print(f"{name:24} cannot be estimated: {str(error).splitlines()[0]}")
                break
            seconds += time.perf_counter() - begin
            errors.append(found / peak - 1)
            print(f"{name:24} {rank:4} {peak:14,} {found:14,} {errors[-1]:+8.3%}", flush=True)
    if errors:
        sizes = sorted(map(abs, errors))
        told = f"median error {statistics.median(sizes):.3%}, worst {sizes[-1]:.3%}, {seconds / len(sizes):.2f} s each"
        print(f"{len(sizes)} ranks of {len(truth)} programs: {told}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or list(PROGRAMS)))
