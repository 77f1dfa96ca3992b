"""`python -m jaxtl`, and the console script `jaxtl`: see `jaxtl.cli.commands`."""

from jaxtl.cli.commands import run

if __name__ == "__main__":
    run()
