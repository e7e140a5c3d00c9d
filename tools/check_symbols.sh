#!/usr/bin/env bash
# Every kernel object may define one global symbol, its table, and nothing weak: an inline function
# compiled for a newer CPU could otherwise be the copy that the linker keeps for all. Calls into C++
# functions elsewhere are refused as well; C functions (expf, memcpy) may be called.
# Usage: tools/check_symbols.sh BUILD-FOLDER ...     (each holds CMakeFiles/kernels_LEVEL.dir)
#        tools/check_symbols.sh --object FILE.o LEVEL
set -euo pipefail
nm=${NM:-nm}

check() { # object, level
  local object=$1 level=$2 defined undefined
  defined=$("$nm" --extern-only --defined-only "$object" | awk 'NF {print $(NF - 1), $NF}')
  undefined=$("$nm" --undefined-only "$object" | awk '$NF ~ /^_Z/ {print $NF}')
  case "$defined" in
    "R cnnfast_table_$level" | "D cnnfast_table_$level") ;;
    *)
      printf '%s: expected cnnfast_table_%s alone, found:\n%s\n' "$object" "$level" "${defined:-nothing}" >&2
      return 1
      ;;
  esac
  if [ -n "$undefined" ]; then
    printf '%s: calls C++ functions of other files:\n%s\n' "$object" "$undefined" >&2
    return 1
  fi
  echo "$level: one symbol, nothing weak"
}

if [ "${1:-}" = --object ]; then
  check "$2" "$3"
  exit
fi
[ $# -gt 0 ] || { echo "usage: $0 BUILD-FOLDER ..." >&2; exit 2; }
found=0 bad=0
while IFS= read -r object; do
  level=$(sed -E 's|.*/kernels_([a-z0-9]+)\.dir/.*|\1|' <<<"$object")
  found=$((found + 1))
  check "$object" "$level" || bad=1
done < <(find "$@" -path '*/kernels_*.dir/*' -name '*.o' | sort)
[ "$found" -gt 0 ] || { echo "no kernel objects in $*" >&2; exit 1; }
exit "$bad"
