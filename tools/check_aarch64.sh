#!/usr/bin/env bash
# The NEON kernels: cross-compiled, checked for symbols, and compared with the portable level under
# qemu-user. Needs Debian's g++-aarch64-linux-gnu and qemu-user.
set -euo pipefail
cd "$(dirname "$0")/.."
for tool in aarch64-linux-gnu-g++ qemu-aarch64; do
  command -v "$tool" >/dev/null || { echo "$tool is missing: apt-get install g++-aarch64-linux-gnu qemu-user" >&2; exit 1; }
done
CNNFAST_CROSS=aarch64 tools/check_levels.sh "$@"
NM=aarch64-linux-gnu-nm tools/check_symbols.sh build/levels/aarch64
