"""Turns decisions into time, bytes and memory."""

from moesim.engine.recording import Recording
from moesim.engine.run import run
from moesim.engine.setup import MemoryOptions, Setup

__all__ = ["MemoryOptions", "Recording", "Setup", "run"]
