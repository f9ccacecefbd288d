#!/bin/sh
# On a machine with a GPU, torch, pytest, pytest-benchmark, transformers, pybind11 and ninja: builds, runs the tests that need
# the GPU with skipping forbidden, the benchmarks, the accuracy of estimates, and replays of recorded memory snapshots. What fails
# does not keep the rest from running; at the end is a short table of what held.
cd "$(dirname "$0")/.."
OUT=${OUT:-build/gpu}
mkdir -p "$OUT"
failed=0

# part NAME COMMAND...: runs it, keeps all of its output in $OUT/NAME.txt, shows the end of it.
part() {
  name=$1
  shift
  begin=$(date +%s)
  if "$@" >"$OUT/$name.txt" 2>&1; then verdict=ok; else verdict=FAILED; failed=1; fi
  echo "$name: $verdict, $(($(date +%s) - begin)) s" >>"$OUT/parts.txt"
  echo "== $name"
  tail -n "${LINES_SHOWN:-40}" "$OUT/$name.txt"
}

: >"$OUT/parts.txt"
nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader
python3 -c "import torch, transformers; print('torch', torch.__version__, 'transformers', transformers.__version__)"
LINES_SHOWN=3 part build python3 setup.py --quiet build_ext --inplace
TORCHPROF_REQUIRE_CUDA=1 part tests python3 -m pytest -q tests/integration/test_cuda.py
TORCHPROF_REQUIRE_CUDA=1 part benchmarks python3 -m pytest -q --benchmark-enable --benchmark-columns=rounds benchmarks/bench_gpu.py
part estimates python3 benchmarks/accuracy.py cuda
part snapshots python3 benchmarks/record_snapshot.py
echo "== $(git describe --always --dirty 2>/dev/null)"
cat "$OUT/parts.txt"
exit $failed
