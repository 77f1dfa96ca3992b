"""Training programs to their end: a grid of configurations at once, or one run followed by curves."""

from jaxtl.sweep.run import Ended, objective, run, run_all
from jaxtl.sweep.sweep import Sweep, sweep

__all__ = ["Ended", "Sweep", "objective", "run", "run_all", "sweep"]
