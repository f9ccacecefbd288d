#!/bin/sh
# On a machine with a GPU, torch, pytest, pytest-benchmark, transformers, pybind11 and ninja: builds, runs the tests that need
# the GPU with skipping forbidden, the benchmarks, the accuracy of estimates, and replays of recorded memory snapshots.
set -e
cd "$(dirname "$0")/.."
python3 setup.py --quiet build_ext --inplace >build.log 2>&1 || { tail -40 build.log; exit 1; }
nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader
TORCHPROF_REQUIRE_CUDA=1 python3 -m pytest -q tests/integration/test_cuda.py
python3 -m pytest -q --benchmark-enable benchmarks/bench_training.py
python3 benchmarks/accuracy.py cuda
python3 benchmarks/record_snapshot.py
