#!/bin/bash
# Everything that needs a GPU, offline, in stages that can be run one by one: bench/gpu.sh [STAGE...]
#   build        what the machine is, and the kernels, in place
#   correctness  every kernel and path against the CPU
#   kernels      ops against torch's, bfloat16 in channels_last first
#   networks     a frame, then steps of fine-tuning, then a person
#   rest         animation, meta-learning
#   sanitizer    compute-sanitizer on small shapes: memcheck, racecheck, synccheck
# Without a name all, in this order. Every stage ends within its limit and writes STAGE.log, and what it measures, into $OUT (default
# out/gpu) as it goes; no call takes more than BUDGET seconds (default 540), and what is left then is named: run it by another call, there
# or on another machine, where the kernels are built again first. A stage that fails does not stop the next, but a build does.
# Needs torch with CUDA, nvcc, triton, setuptools, ninja, pytest and pytest-benchmark; pytest-xdist and compute-sanitizer where they are
# there. PYTHON names another python than the first on the PATH. DRY_RUN=1 builds nothing and runs small shapes, or
# only finds what would run; on a CPU too.
set -uo pipefail

stages=(build correctness kernels networks rest sanitizer)
declare -A limits=([build]=240 [correctness]=90 [kernels]=200 [networks]=220 [rest]=120 [sanitizer]=150)
chosen=("$@")
[ $# -gt 0 ] || chosen=("${stages[@]}")
for stage in "${chosen[@]}"; do
  [ -n "${limits[$stage]:-}" ] || { echo "bench/gpu.sh: no stage $stage; choose of: ${stages[*]}" >&2; exit 2; }
done

out=${OUT:-out/gpu}
python=${PYTHON:-python3}
budget=${BUDGET:-540}
mkdir -p "$out" || exit
out=$(cd "$out" && pwd)
cd "$(dirname "$0")/.." || exit
export PYTHONPATH="$PWD:$PWD/kernels:$PWD/tests${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
export TALKINGHEAD_BUILD=${TALKINGHEAD_BUILD:-cuda} MAX_JOBS=${MAX_JOBS:-8}
export TORCHINDUCTOR_CACHE_DIR=${TORCHINDUCTOR_CACHE_DIR:-${TMPDIR:-/tmp}/talkinghead_inductor}
dry=${DRY_RUN:-}
collected=()
[ -z "$dry" ] || collected=(--collect-only)

# run SECONDS COMMAND...: within the time; what it prints goes to the stage's log, of which the end is shown
run() {
  local seconds=$1 code
  shift
  echo "\$ $*" >> "$log"
  timeout --signal=INT --kill-after=10 "$seconds" "$@" >> "$log" 2>&1
  code=$?
  [ $code -ne 124 ] || echo "stopped after $seconds s" >> "$log"
  return $code
}

# bench NAME TESTS...: what is measured goes to NAME.json, case by case; the last seconds are for the tables
bench() {
  local name=$1
  shift
  BENCH_SECONDS=$((seconds - 25)) run "$seconds" "$python" -m pytest "$@" -q --tb=short "--results=$out/$name.json" \
    --benchmark-columns=median,iqr,rounds
}

build() {
  {
    date -u
    nvidia-smi
    nvcc --version
    "$python" -c 'import sys, torch; print(sys.version, torch.__version__, torch.version.cuda, torch.cuda.is_available())'
  } > "$out/environment.txt" 2>&1
  if [ -z "$dry" ]; then
    if [ -z "${TORCH_CUDA_ARCH_LIST:-}" ]; then
      TORCH_CUDA_ARCH_LIST=$("$python" -c 'import torch; print("%d.%d" % torch.cuda.get_device_capability())' 2>/dev/null) \
        || TORCH_CUDA_ARCH_LIST=9.0
      export TORCH_CUDA_ARCH_LIST
    fi
    run "$seconds" "$python" setup.py build_ext --inplace || return
  fi
  "$python" -c 'from talkinghead_kernels import backends; print(backends())' 2>&1 | tee -a "$log" >> "$out/environment.txt"
}

correctness() {
  local workers=() code
  "$python" -c 'import xdist' 2>/dev/null && workers=(-n 4)
  run "$seconds" "$python" -m pytest tests/kernels/test_gpu.py tests/kernels/test_gpu_warp.py tests/training/test_on_gpu.py \
    tests/training/test_on_gpu_guided.py "${workers[@]}" -v --tb=short
  code=$?
  [ $code -ne 5 ] || [ -z "$dry" ] || code=0  # without a GPU there is nothing to test
  return $code
}

kernels() {
  local only=()
  [ -z "$dry" ] || only=(--quick -k "test_adain and forward and bf16")
  bench kernels bench/kernels "${only[@]}"
}

networks() {
  bench networks bench/networks/bench_generator.py bench/networks/bench_finetune.py::test_finetune \
    bench/networks/bench_finetune.py::test_person "${collected[@]}"
}

rest() {
  bench rest bench/networks/bench_animate.py bench/networks/bench_meta.py "${collected[@]}"
}

sanitizer() {
  local tool said start code part errors=0 tools=(memcheck racecheck synccheck)
  if ! command -v compute-sanitizer > /dev/null; then
    echo "compute-sanitizer is not installed: nothing was checked" | tee -a "$log"
    [ -z "$dry" ] || run "$seconds" "$python" -m bench.small_shapes
    return
  fi
  export PYTORCH_NO_CUDA_MEMORY_CACHING=1  # or accesses past a tensor may hit another one
  for tool in "${tools[@]}"; do
    start=$(wc -c < "$log")
    run $((seconds / ${#tools[@]})) compute-sanitizer --tool "$tool" --error-exitcode 9 "$python" -m bench.small_shapes
    code=$?
    part=$(tail -c +$((start + 1)) "$log")
    # a wrong result ends the program before the tool can set its exit code
    if [ $code -eq 9 ] || grep -Eq 'ERROR SUMMARY: [1-9]|RACECHECK SUMMARY: [1-9]|a result is not finite' <<< "$part"; then
      said="errors were found" errors=9
    elif [ $code -eq 0 ]; then
      said="nothing was found"
    elif grep -Eqi 'not supported|unable to (attach|initiali)' <<< "$part"; then
      said="it refuses the device: nothing was checked"
    else
      said="it failed with exit code $code" errors=1
    fi
    echo "$tool: $said" | tee -a "$log"
  done
  return $errors
}

built() {
  [ -n "$dry" ] || "$python" -c 'import sys; from talkinghead_kernels import backends; sys.exit(bool(backends()["cuda"]))' 2>/dev/null
}

perform() {
  local stage=$1 started=$SECONDS code
  log=$out/$stage.log
  : > "$log"
  seconds=$((budget - SECONDS))
  [ $seconds -lt "${limits[$stage]}" ] || seconds=${limits[$stage]}
  "$stage"
  code=$?
  tail -c 400000 "$log" > "$log.end" && mv "$log.end" "$log"
  echo "== $stage: exit $code after $((SECONDS - started)) s"
  tail -n 12 "$log"
  return $code
}

failed=()
for index in "${!chosen[@]}"; do
  stage=${chosen[$index]}
  if [ $((budget - SECONDS)) -lt 40 ]; then
    echo "== time is up; to go on: bench/gpu.sh ${chosen[*]:$index}"
    failed+=("${chosen[@]:$index}")
    break
  fi
  if [ "$stage" = build ] || ! built; then
    perform build || { echo "== nothing else can run"; exit 1; }
  fi
  [ "$stage" = build ] || perform "$stage" || failed+=("$stage")
done
du -sh "$out"
[ ${#failed[@]} -eq 0 ] || { echo "== failed or not run: ${failed[*]}"; exit 1; }
