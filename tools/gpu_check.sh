#!/usr/bin/env bash
# What only a GPU can show: the tests on the device, compute-sanitizer, benchmarks. Under nine minutes.
# Usage: tools/gpu_check.sh [folder for results]     default: build/gpu_check
# One JSON line per phase as it goes, into results.jsonl too; without a device it stops cleanly. Nothing is
# installed: it takes nvcc, Python with NumPy, pybind11 and pytest, and for the benchmarks torch, as they are.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:-${OUT:-build/gpu_check}}
mkdir -p "$out"
results=$out/results.jsonl
: >"$results"
# nvcc, compute-sanitizer and cuobjdump where CUDA's installers put them.
command -v nvcc >/dev/null || PATH=$PATH:${CUDA_HOME:-/usr/local/cuda}/bin
export PYTHON=${PYTHON:-python3} PYTHONPATH=$PWD/python PYTHONDONTWRITEBYTECODE=1
started=$SECONDS failed=0

say() { tee -a "$results" <<<"$1"; }
# phase NAME SECONDS COMMAND...: the end of what it prints goes to NAME.log; a phase that fails stops nothing.
phase() {
  local name=$1 limit=$2 begin=$SECONDS code=0
  shift 2
  timeout "$limit" "$@" >"$out/$name.log" 2>&1 || code=$?
  say "{\"phase\": \"$name\", \"rc\": $code, \"seconds\": $((SECONDS - begin))}"
  if [ $code -ne 0 ]; then
    failed=$((failed + 1))
    tail -n 25 "$out/$name.log"
  fi
  return $code
}

capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1 | tr -d '. ')
if [ -z "$capability" ]; then
  say '{"phase": "device", "result": "no device"}'
  exit 0
fi
say "{\"phase\": \"device\", \"result\": \"$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader | head -n 1)\"}"

missing=
for tool in nvcc c++ cmake ninja; do command -v "$tool" >/dev/null || missing+=" $tool"; done
for name in numpy PIL safetensors pybind11 pytest; do
  "$PYTHON" -c "import $name" 2>/dev/null || missing+=" $name"
done
header='import os, sysconfig; assert os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h"))'
"$PYTHON" -c "$header" 2>/dev/null || missing+=" Python.h"
if [ -n "$missing" ]; then
  say "{\"phase\": \"tools\", \"result\": \"missing:$missing\"}"
  exit 1
fi
say "{\"phase\": \"tools\", \"result\": \"$(nvcc --version | grep -o 'release.*'); $("$PYTHON" --version)\"}"

[ -e python/cnnfast/bench ] || ln -s ../../benchmarks python/cnnfast/bench
phase build 150 env STRICT=OFF tools/cuda_dev.sh cuda "$capability" || exit 1
phase doctor 30 "$PYTHON" -c "
import cnnfast as cf
cf.show_config()
assert cf.cuda.is_available(), cf.cuda.why_unavailable()" || exit 1
tail -n 4 "$out/doctor.log"
# Every file in a process of its own, eight at a time: after an illegal access a process has lost its device.
# pytest gives 5 where a file has no tests of devices.
one='code=0 log="$2/$(basename "$1" .py).log"
"$PYTHON" -m pytest -q -p no:cacheprovider -o filterwarnings=default --maxfail 20 -m gpu "$1" >"$log" 2>&1 || code=$?
[ $code -eq 5 ] && exit 0
echo "$1:"; grep -E "^(FAILED|ERROR)" "$log"; tail -n 1 "$log"
exit $code'
phase tests 150 bash -c 'printf "%s\n" tests/cuda/test_*.py | OPENBLAS_NUM_THREADS=2 xargs -P 8 -I{} bash -c "$0" one {} "$1"' "$one" "$out"
tail -n 60 "$out/tests.log"
if command -v compute-sanitizer >/dev/null; then
  # What reads by copies and descriptors, and what shares memory between threads.
  for tool in memcheck:wrappers racecheck:reduce; do
    phase "${tool%:*}" 60 compute-sanitizer --tool "${tool%:*}" --error-exitcode 9 --kernel-regex kns=cnnfast \
      "$PYTHON" -m pytest -q -x -p no:cacheprovider -m gpu "tests/cuda/test_cuda_${tool#*:}.py"
  done
fi
# Each prints JSON lines of its own, against torch and cuDNN at the same precision.
for bench in benchmarks/cuda_*.py; do
  [ -e "$bench" ] || continue
  name=$(basename "$bench" .py)
  phase "$name" 100 "$PYTHON" -m "cnnfast.bench.$name"
  grep '^{' "$out/$name.log" | tee -a "$results"
done
# Launches that come before the kernel before has ended: the same results, and what they gain.
export CNNFAST_CUDA_DEPENDENT=1
phase dependent_tests 60 "$PYTHON" -m pytest -q -p no:cacheprovider -o filterwarnings=default -m gpu \
  tests/cuda/test_cuda_{networks,engine,conv_mma,boxes,training}.py
phase dependent 60 "$PYTHON" -m cnnfast.bench.cuda_networks --batch 1 --seconds 30
grep '^{' "$out/dependent.log" | tee -a "$results"
unset CNNFAST_CUDA_DEPENDENT
say "{\"phase\": \"all\", \"failed\": $failed, \"seconds\": $((SECONDS - started))}"
exit $((failed > 0))
