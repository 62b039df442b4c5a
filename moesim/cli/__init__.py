"""The command line: ``moesim``.

Commands import what they need when they run, so that ``moesim --help`` answers at once.
"""

from moesim.cli.main import main

__all__ = ["main"]
