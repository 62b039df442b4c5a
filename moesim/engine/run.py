"""Run a setup from its first step to its last."""

from __future__ import annotations

from collections.abc import Callable

from moesim.engine.recording import Recording
from moesim.engine.setup import Setup
from moesim.engine.step import StepRunner

Progress = Callable[[int, int], None]
"""Called after every step with (steps done, steps in all)."""


def run(setup: Setup, progress: Progress | None = None) -> Recording:
    """Run all steps of a setup.

    An interrupt (Ctrl-C) during a step, or raised by ``progress``, ends the run and keeps the steps that
    are done, as long as there is one.

    Args:
        setup: what to run.
        progress: called after every step.

    Returns:
        The recording of the steps that ran.

    Raises:
        InputError: the pieces of the setup do not fit together.
    """
    runner = StepRunner(setup)
    recording = Recording(setup, runner.own)
    for step in range(setup.workload.steps):
        try:
            record = runner.run(step)
        except KeyboardInterrupt:
            if not recording.steps:
                raise
            break
        recording.add(record)  # half a step recorded is no recording: an interrupt in here is not caught
        try:
            if progress is not None:
                progress(step + 1, setup.workload.steps)
        except KeyboardInterrupt:
            break
    recording.memory = runner.memory.ledger
    return recording
