"""`python -m experiments.benchmarks`: all of them, see `experiments.benchmarks.benchmarks`."""

import sys

from experiments.benchmarks.benchmarks import Config, main
from jaxtl import cli

if __name__ == "__main__":
    sys.exit(cli.execute(main, Config, sys.argv[1:]))
