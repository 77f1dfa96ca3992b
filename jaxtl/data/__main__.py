"""`python -m jaxtl.data`, see `jaxtl.cli.data`."""

import sys

from jaxtl import cli
from jaxtl.cli.data import main

if __name__ == "__main__":
    sys.exit(cli.guarded(lambda: main(sys.argv[1:])))
