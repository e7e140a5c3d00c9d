#!/usr/bin/env bash
# Builds the native module with a sanitizer, in a folder of its own, and runs the tests with it.
# Usage: tools/sanitize.sh address|undefined|thread|cuda [pytest argument ...]
#   e.g. tools/sanitize.sh address -n 2 tests/test_conv.py
#        CNNFAST_ISA=v3 tools/sanitize.sh undefined
# Without arguments all tests run, with `thread` those of tests/test_threads.py. PYTHON names the
# interpreter, LEVELS the instruction levels to build (default: all).
# `cuda` is AddressSanitizer over the CUDA sources built for the host, with the tests in tests/cuda.
# Under AddressSanitizer no memory is recycled and every buffer has its exact size.
set -euo pipefail
cd "$(dirname "$0")/.."
kind=${1:-}
default=tests options=() sanitizer=$kind
case "$kind" in
  address | undefined) shift ;;
  thread)
    shift
    default=tests/test_threads.py
    ;;
  cuda)
    shift
    sanitizer=address LEVELS=${LEVELS:-scalar} default=tests/cuda options=(-DCNNFAST_CUDA_SHIM=ON)
    ;;
  *) sed -n '3,4p' "$0" >&2; exit 2 ;;
esac
python=$(command -v "${PYTHON:-python3}")
folder=$PWD/build/sanitize/$kind
mkdir -p "$folder"
cmake -S . -B "$folder" -G Ninja -DCNNFAST_NATIVE=ON -DCNNFAST_SANITIZE="$sanitizer" -DCNNFAST_LEVELS="${LEVELS:-}" \
  -DCNNFAST_CUDA=OFF "${options[@]}" \
  -DPython_EXECUTABLE="$("$python" -c 'import sys; print(sys.executable)')" \
  -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)" >"$folder/configure.log" 2>&1 ||
  { cat "$folder/configure.log"; exit 1; }
module=_cpu source=$folder
[ "$kind" != cuda ] || module=_cuda_shim source=$folder/csrc/cuda
cmake --build "$folder" --target "$module"

# A package of its own beside the build, so that the module in the source tree stays what it was.
package=$folder/package/cnnfast
rm -rf "$package" && mkdir -p "$package"
cp -r python/cnnfast/. "$package"
rm -rf "$package"/*.so "$package/bench"
cp -r benchmarks "$package/bench"
cp "$source/$module".*.so "$package"
export PYTHONPATH=$folder/package PYTHONDONTWRITEBYTECODE=1 OPENBLAS_NUM_THREADS=1

runtime() { gcc -print-file-name="$1"; }
# Reports go to files: pytest swallows what the process prints.
reports=$folder/reports
rm -rf "$reports" && mkdir -p "$reports"
common=log_path=$reports/report:exitcode=66
case "$sanitizer" in
  address)
    preload=libasan.so
    export PYTHONMALLOC=malloc ASAN_OPTIONS=$common:detect_leaks=0:allocator_may_return_null=1
    ;;
  undefined)
    preload=libubsan.so
    export UBSAN_OPTIONS=$common:print_stacktrace=1
    ;;
  thread)
    preload=libtsan.so
    export TSAN_OPTIONS=$common:second_deadlock_stack=1
    ;;
esac
case " $*" in
  *" tests"*) ;;
  *) set -- "$@" "$default" ;;
esac
status=0
LD_PRELOAD="$(runtime $preload) $(runtime libstdc++.so.6)" "$python" -m pytest -p no:cacheprovider "$@" || status=$?
# A warning that memory is short is what some tests ask for.
found=$(grep -rlE 'ERROR: |runtime error|WARNING: ThreadSanitizer' "$reports" || true)
if [ -n "$found" ]; then
  xargs cat <<<"$found"
  echo "$kind sanitizer: $(wc -l <<<"$found") processes with reports"
  exit 1
fi
echo "$kind sanitizer: no report"
exit "$status"
