#!/usr/bin/env bash
# Builds the native module into the source tree, so that PYTHONPATH=python works without an install.
# Usage: tools/dev.sh [level ...]     e.g. tools/dev.sh v3 v4   (default: every level)
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
mkdir -p build
levels=$(IFS=';'; echo "$*")
cmake -S . -B build/dev -G Ninja -DCNNFAST_NATIVE=ON -DCNNFAST_LEVELS="$levels" \
  -DPython_EXECUTABLE="$("$python" -c 'import sys; print(sys.executable)')" \
  -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)" >build/dev.log 2>&1 || { cat build/dev.log; exit 1; }
cmake --build build/dev
cp build/dev/_cpu*.so python/cnnfast/
[ -e python/cnnfast/bench ] || ln -s ../../benchmarks python/cnnfast/bench
