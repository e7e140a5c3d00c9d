#!/usr/bin/env bash
# Builds the CUDA sources into the source tree: for the host (no GPU, no nvcc), or with nvcc.
# Usage: tools/cuda_dev.sh [shim] [cuda] [arch]     e.g. tools/cuda_dev.sh shim; tools/cuda_dev.sh cuda 80
#   shim   python/cnnfast/_cuda_shim*.so, what tests/cuda runs on (default)
#   cuda   python/cnnfast/_cuda*.so, machine code for one compute capability (default 90; "all" for every target)
# STRICT=OFF lets nvcc warn. tools/sanitize.sh cuda runs the tests under AddressSanitizer.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
parts=() arch=90
for word in "$@"; do
  case $word in
    shim | cuda) parts+=("$word") ;;
    *) arch=$word ;;
  esac
done
[ ${#parts[@]} -gt 0 ] || parts=(shim)
mkdir -p build
configure() { # folder, options
  cmake -S . -B "build/$1" -G Ninja -DCNNFAST_NATIVE=ON -DCNNFAST_LEVELS=scalar "${@:2}" \
    -DPython_EXECUTABLE="$("$python" -c 'import sys; print(sys.executable)')" \
    -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)" >"build/$1.log" 2>&1 || { cat "build/$1.log"; exit 1; }
}
for part in "${parts[@]}"; do
  case $part in
    shim)
      configure cuda_shim -DCNNFAST_CUDA=OFF -DCNNFAST_CUDA_SHIM=ON
      cmake --build build/cuda_shim --target _cuda_shim
      cp build/cuda_shim/csrc/cuda/_cuda_shim*.so python/cnnfast/
      ;;
    cuda)
      archs=()
      [ "$arch" = all ] || archs=("-DCNNFAST_CUDA_ARCHS=$arch-real")
      configure "cuda_$arch" -DCNNFAST_CUDA=ON "-DCNNFAST_CUDA_STRICT=${STRICT:-ON}" "${archs[@]}"
      cmake --build "build/cuda_$arch" --target _cuda
      cp "build/cuda_$arch"/csrc/cuda/_cuda.*.so python/cnnfast/
      ;;
  esac
done
