"""Run a setup from its first step to its last."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from moesim.engine.offload.recording import OffloadRecording
from moesim.engine.offload.runner import OffloadRunner
from moesim.engine.recording import Recording
from moesim.engine.setup import Setup
from moesim.engine.step import StepRunner
from moesim.errors import InputError

Progress = Callable[[int, int], None]
"""Called after every step with (steps done, steps in all)."""


def run(setup: Setup, progress: Progress | None = None) -> Recording | OffloadRecording:
    """Run all steps of a setup; with a policy that offloads, all passes of its requests.

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
    if setup.policy.offload is not None:
        offloading = OffloadRunner(setup)
        kept = OffloadRecording(offloading)
        _each(kept, lambda _: offloading.step(), setup.workload.passes, progress)
        return kept
    if setup.workload.requests is not None:
        message = f"policy '{setup.policy.name}' keeps all experts on the devices and runs equal steps only"
        raise InputError(message, hint="workload.requests needs a policy that offloads, such as on_demand")
    runner = StepRunner(setup)
    recording = Recording(setup, runner.own)
    _each(recording, runner.run, setup.workload.steps, progress)
    recording.memory = runner.memory.ledger
    return recording


def _each(
    recording: Recording | OffloadRecording,
    once: Callable[[int], Any],
    steps: int,
    progress: Progress | None,
) -> None:
    """Run and record step after step, until the last or an interrupt."""
    for step in range(steps):
        try:
            record = once(step)
        except KeyboardInterrupt:
            if not recording.steps:
                raise
            break
        recording.add(record)  # half a step recorded is no recording: an interrupt in here is not caught
        try:
            if progress is not None:
                progress(step + 1, steps)
        except KeyboardInterrupt:
            break
