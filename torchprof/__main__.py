"""``python -m torchprof``: the command line."""

import sys

from torchprof.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
