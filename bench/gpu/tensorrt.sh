#!/bin/bash
# TensorRT on a GPU, in one command: bench/gpu/tensorrt.sh OUT [ANNA.safetensors BERTA.safetensors]
# Builds, runs and refits engines, checks them against torch and times them. Leaves in OUT: environment.txt, tensorrt.log, tensorrt.json.
# Needs torch with CUDA, tensorrt or tensorrt-rtx, onnx, onnxscript and, where no persons are named, the extras app, train and demo;
# with PYTHON=/path/to/python of another one than the first on the PATH.
set -uo pipefail

out=${1:?usage: bench/gpu/tensorrt.sh OUT [ANNA.safetensors BERTA.safetensors]}
shift
python=${PYTHON:-python3}
mkdir -p "$out" || exit
out=$(cd "$out" && pwd)
persons=()
for person in "$@"; do persons+=("$(realpath "$person")"); done
cd "$(dirname "$0")/../.." || exit
export PYTHONPATH="$PWD:$PWD/kernels${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1

{
  date -u
  nvidia-smi
  "$python" -c 'import sys, torch; print(sys.version, torch.__version__, torch.version.cuda, torch.cuda.is_available())'
} > "$out/environment.txt" 2>&1

"$python" -m bench.gpu.tensorrt_gpu "$out/tensorrt.json" "${persons[@]}" 2>&1 | tee "$out/tensorrt.log"
exit "${PIPESTATUS[0]}"
