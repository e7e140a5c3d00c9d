"""``python -m cnnfast.bench`` and ``python -m cnnfast.bench models``."""

import sys

from .cli import main
from .networks.cli import main as models

if __name__ == "__main__":
    sys.exit(models(sys.argv[2:]) if sys.argv[1:2] == ["models"] else main())
