"""Milliseconds that `import cnnfast` takes on top of `import numpy`: the best of several new processes.

Usage: tools/import_time.py [LIMIT]    exit status 1 above LIMIT milliseconds
"""

import subprocess
import sys

PROGRAM = """
import time
import numpy
start = time.perf_counter()
import cnnfast
print((time.perf_counter() - start) * 1e3)
import sys
assert not {"PIL", "safetensors", "argparse"} & set(sys.modules), "more than NumPy was imported"
"""


def main() -> int:
    times = [float(subprocess.check_output([sys.executable, "-c", PROGRAM])) for _ in range(7)]
    limit = float(sys.argv[1]) if len(sys.argv) > 1 else float("inf")
    print(f"import cnnfast: {min(times):.1f} ms over NumPy (best of {len(times)}, limit {limit:g})")
    return int(min(times) > limit)


if __name__ == "__main__":
    sys.exit(main())
