#!/usr/bin/env bash
# Builds the kernels of every instruction level and compares each with the portable one, without Python.
# Usage: tools/check_levels.sh [level ...]     e.g. tools/check_levels.sh v3
# CNNFAST_CROSS=aarch64 builds for that machine with Debian's cross compiler and runs under qemu-user.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CNNFAST_CROSS:-native}
folder=$PWD/build/levels/$target
cross=() run=()
if [ "$target" != native ]; then
  cross=(-DCMAKE_SYSTEM_NAME=Linux "-DCMAKE_SYSTEM_PROCESSOR=$target" "-DCMAKE_CXX_COMPILER=$target-linux-gnu-g++")
  run=("qemu-$target" -L "/usr/$target-linux-gnu")
fi
mkdir -p "$folder"
cmake -S . -B "$folder" -G Ninja -DCNNFAST_NATIVE=ON -DCNNFAST_PYTHON=OFF -DCNNFAST_COMPARE=ON \
  "${cross[@]}" >"$folder/configure.log" 2>&1 || { cat "$folder/configure.log"; exit 1; }
cmake --build "$folder" --target compare_levels
echo "$target:"
"${run[@]}" "$folder/compare_levels" "$@"
