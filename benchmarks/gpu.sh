#!/bin/sh
# On a machine with a GPU, torch, numpy, rich, pytest, pytest-benchmark, transformers, pybind11 and ninja: builds, runs the tests that need
# the GPU with skipping forbidden, the benchmarks, the accuracy of estimates, and replays of recorded memory snapshots. What fails
# does not keep the rest from running, nor what takes too long; at the end is a short table of what held. With names of parts as
# arguments, only these: build tests benchmarks agreement proton estimates real snapshots.
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
OUT=${OUT:-build/gpu}
mkdir -p "$OUT"
failed=0
# PATH's compiler, where there is one: one that CXX names may link a libstdc++ of its own, which the build refuses.
if command -v g++ >/dev/null && command -v gcc >/dev/null; then
  CXX=$(command -v g++) CC=$(command -v gcc)
  export CC CXX
fi

wanted=" ${*:-build tests benchmarks agreement proton estimates real snapshots} "

# part NAME SECONDS COMMAND...: runs it, keeps all of its output in $OUT/NAME.txt, shows the end of it.
part() {
  name=$1 limit=$2
  shift 2
  case $wanted in *" $name "*) ;; *) return ;; esac
  begin=$(date +%s)
  if timeout "$limit" "$@" >"$OUT/$name.txt" 2>&1; then verdict=ok; else verdict=FAILED; failed=1; fi
  echo "$name: $verdict, $(($(date +%s) - begin)) s" >>"$OUT/parts.txt"
  echo "== $name"
  tail -n "${LINES_SHOWN:-40}" "$OUT/$name.txt"
}

: >"$OUT/parts.txt"
nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader
python3 -c "import torch, transformers; print('torch', torch.__version__, 'transformers', transformers.__version__)"
export TORCHPROF_REQUIRE_CUDA=1
bench="python3 -m pytest -q --benchmark-enable --benchmark-columns=rounds benchmarks/bench_gpu.py"
LINES_SHOWN=3 part build 300 python3 setup.py --quiet build_ext --inplace
part tests 240 python3 -m pytest -q tests/integration/test_cuda.py
part benchmarks 240 $bench -k on_a_gpu
part agreement 120 $bench -k agreement
part proton 120 $bench -k proton
part estimates 400 python3 benchmarks/accuracy.py cuda
part real 200 python3 benchmarks/accuracy.py real
part snapshots 240 python3 benchmarks/record_snapshot.py
echo "== $(git describe --always --dirty 2>/dev/null)"
cat "$OUT/parts.txt"
exit $failed
