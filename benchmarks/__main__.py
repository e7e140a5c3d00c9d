"""``python -m cnnfast.bench``, and ``models`` or ``train`` after it."""

import sys

from .cli import main
from .networks.cli import main as models
from .training import main as train

if __name__ == "__main__":
    others = {"models": models, "train": train}
    other = others.get(sys.argv[1] if len(sys.argv) > 1 else "")
    sys.exit(other(sys.argv[2:]) if other else main())
