#!/bin/bash
# Everything that needs a GPU, offline, in stages that can be run one by one: bench/gpu/run.sh [STAGE...]
#   build        what the machine is, and the kernels, in place
#   correctness  every kernel and path against the CPU
#   kernels      ops against torch's, bfloat16 in channels_last first
#   networks     a frame, then steps of fine-tuning, then a person
#   rest         animation, meta-learning
#   sanitizer    compute-sanitizer on small shapes: memcheck, racecheck, synccheck
# Without a name it runs all, in this order. Every stage ends within its limit and writes STAGE.log and its results into $OUT/stages
# (default out/gpu/stages). After each stage all these files are packed into $OUT/results.tar.gz, one file to copy from a machine that hands
# back few files. A call takes at most BUDGET seconds (default 540) and names the stages it did not reach: run them by another call, there or
# on another machine, where the kernels are built again first. A stage that fails does not stop the next, except the build.
# Needs torch with CUDA, nvcc, triton, setuptools, ninja, pytest and pytest-benchmark; uses pytest-xdist and compute-sanitizer if installed.
# PYTHON names another python than the first on the PATH. DRY_RUN=1 builds nothing and runs small shapes, or only collects the tests; it
# works on a CPU, too.
set -uo pipefail

stages=(build correctness kernels networks rest sanitizer)
declare -A limits=([build]=240 [correctness]=90 [kernels]=200 [networks]=220 [rest]=120 [sanitizer]=150)
chosen=("$@")
[ $# -gt 0 ] || chosen=("${stages[@]}")
for stage in "${chosen[@]}"; do
  [ -n "${limits[$stage]:-}" ] || { echo "bench/gpu/run.sh: no stage $stage; choose of: ${stages[*]}" >&2; exit 2; }
done

out=${OUT:-out/gpu}
python=${PYTHON:-python3}
budget=${BUDGET:-540}
mkdir -p "$out/stages" || exit
out=$(cd "$out" && pwd)
results=$out/stages
cd "$(dirname "$0")/../.." || exit
export PYTHONPATH="$PWD:$PWD/kernels:$PWD/tests${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
export TALKINGHEAD_BUILD=${TALKINGHEAD_BUILD:-cuda} MAX_JOBS=${MAX_JOBS:-8}
export TORCHINDUCTOR_CACHE_DIR=${TORCHINDUCTOR_CACHE_DIR:-${TMPDIR:-/tmp}/talkinghead_inductor}
dry=${DRY_RUN:-}
collected=()
[ -z "$dry" ] || collected=(--collect-only)

# run SECONDS COMMAND...: stop the command after the time; its output goes to the log of the stage
run() {
  local seconds=$1 code
  shift
  echo "\$ $*" >> "$log"
  timeout --signal=INT --kill-after=10 "$seconds" "$@" >> "$log" 2>&1
  code=$?
  [ $code -ne 124 ] || echo "stopped after $seconds s" >> "$log"
  return $code
}

# bench NAME TESTS...: write results to NAME.json, case by case; the last seconds are for the tables
bench() {
  local name=$1
  shift
  BENCH_SECONDS=$((seconds - 25)) run "$seconds" "$python" -m pytest "$@" -q --tb=short "--results=$results/$name.json" \
    --benchmark-columns=median,iqr,rounds
}

build() {
  {
    date -u
    nvidia-smi
    nvcc --version
    "$python" -c 'import sys, torch; print(sys.version, torch.__version__, torch.version.cuda, torch.cuda.is_available())'
  } > "$results/environment.txt" 2>&1
  if [ -z "$dry" ]; then
    if [ -z "${TORCH_CUDA_ARCH_LIST:-}" ]; then
      TORCH_CUDA_ARCH_LIST=$("$python" -c 'import torch; print("%d.%d" % torch.cuda.get_device_capability())' 2>/dev/null) \
        || TORCH_CUDA_ARCH_LIST=9.0
      export TORCH_CUDA_ARCH_LIST
    fi
    run "$seconds" "$python" setup.py build_ext --inplace || return
  fi
  "$python" -c 'from talkinghead_kernels import backends; print(backends())' 2>&1 | tee -a "$log" >> "$results/environment.txt"
}

correctness() {
  local workers=() code
  "$python" -c 'import xdist' 2>/dev/null && workers=(-n 4)
  run "$seconds" "$python" -m pytest tests/kernels/test_gpu.py tests/kernels/test_gpu_warp.py tests/training/test_on_gpu.py \
    tests/training/test_on_gpu_guided.py "${workers[@]}" -v --tb=short
  code=$?
  [ $code -ne 5 ] || [ -z "$dry" ] || code=0  # without a GPU no test is collected
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
  local tool outcome start code part errors=0 tools=(memcheck racecheck synccheck)
  if ! command -v compute-sanitizer > /dev/null; then
    echo "compute-sanitizer is not installed: nothing was checked" | tee -a "$log"
    [ -z "$dry" ] || run "$seconds" "$python" -m bench.experiments.small_shapes
    return
  fi
  export PYTORCH_NO_CUDA_MEMORY_CACHING=1  # otherwise accesses past a tensor may hit another one
  for tool in "${tools[@]}"; do
    start=$(wc -c < "$log")
    run $((seconds / ${#tools[@]})) compute-sanitizer --tool "$tool" --error-exitcode 9 "$python" -m bench.experiments.small_shapes
    code=$?
    part=$(tail -c +$((start + 1)) "$log")
    # a wrong result ends the program before the tool can set its exit code
    if [ $code -eq 9 ] || grep -Eq 'ERROR SUMMARY: [1-9]|RACECHECK SUMMARY: [1-9]|a result is not finite' <<< "$part"; then
      outcome="errors were found" errors=9
    elif [ $code -eq 0 ]; then
      outcome="no errors were found"
    elif grep -Eqi 'not supported|unable to (attach|initiali)' <<< "$part"; then
      outcome="it refuses the device: nothing was checked"
    else
      outcome="it failed with exit code $code" errors=1
    fi
    echo "$tool: $outcome" | tee -a "$log"
  done
  return $errors
}

built() {
  [ -n "$dry" ] || "$python" -c 'import sys; from talkinghead_kernels import backends; sys.exit(bool(backends()["cuda"]))' 2>/dev/null
}

perform() {
  local stage=$1 started=$SECONDS code
  log=$results/$stage.log
  : > "$log"
  seconds=$((budget - SECONDS))
  [ $seconds -lt "${limits[$stage]}" ] || seconds=${limits[$stage]}
  "$stage"
  code=$?
  tail -c 400000 "$log" > "$log.end" && mv "$log.end" "$log"
  echo "== $stage: exit $code after $((SECONDS - started)) s"
  tail -n 12 "$log"
  pack
  return $code
}

# pack: put all files of the stages into one archive, which is replaced as a whole
pack() {
  tar -czf "$out/results.tar.gz.part" -C "$results" . && mv "$out/results.tar.gz.part" "$out/results.tar.gz"
}

failed=()
for index in "${!chosen[@]}"; do
  stage=${chosen[$index]}
  if [ $((budget - SECONDS)) -lt 40 ]; then
    echo "== time is up; to go on: bench/gpu/run.sh ${chosen[*]:$index}"
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
