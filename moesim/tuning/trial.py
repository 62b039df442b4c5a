"""One trial: a policy with certain parameters, run on the scenario."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from moesim.engine import run
from moesim.errors import MoesimError
from moesim.experiment import Bench
from moesim.policies import create_policy
from moesim.policies.base import Policy
from moesim.policies.offload.create import PARTS
from moesim.results.metrics import spread
from moesim.scenario import Scenario
from moesim.tuning.space import SIZES, parts_of


@dataclass(frozen=True)
class Measured:
    """What a run came to.

    Attributes:
        latency_s: mean latency of a step (s); None where the policy cannot run.
        latency_p99_s: its 99th percentile (s).
        bound_s: mean lower bound (s).
        peak_memory_bytes: largest peak of any device's own memory (B).
        out_of_memory: whether it is above the device's capacity.
        floor_bytes: what of that a policy has no say in (B).
        changed_tokens: tokens that got another output than the model's own, over steps and MoE layers.
        failure: what keeps the policy from running.
    """

    latency_s: float | None = None
    latency_p99_s: float | None = None
    bound_s: float | None = None
    peak_memory_bytes: int | None = None
    out_of_memory: bool = False
    floor_bytes: int | None = None
    changed_tokens: int = 0
    failure: str | None = None


_FLOOR: Final = ("model weights", "KV cache", "tokens", "reserve")


@dataclass(frozen=True)
class Trial:
    """Settings that were tried.

    Attributes:
        number: number of the trial; 0 has the policy's own settings.
        phase: ``default``, ``latency`` (TPE), ``front`` (NSGA-II) or ``grid`` (all there are).
        settings: value by parameter (``half.name``); None where the policy works it out.
        measured: what came of it.
        feasible: whether it ran and stayed within the memory limit.
    """

    number: int
    phase: str
    settings: Mapping[str, Any]
    measured: Measured
    feasible: bool

    def row(self) -> dict[str, Any]:
        """Return it as one row of a table."""
        return {
            "trial": self.number,
            "phase": self.phase,
            **self.settings,
            **vars(self.measured),
            "feasible": self.feasible,
        }


def with_settings(policy: Policy, settings: Mapping[str, Any], name: str | None = None) -> Policy:
    """Return a policy with other parameters.

    Raises:
        InputError: a value that the policy refuses.
    """
    made: dict[str, Any] = {}
    for half, (kind, parameters) in parts_of(policy).items():
        given = parameters.model_dump(exclude_unset=True)
        mine = {key.partition(".")[2]: value for key, value in settings.items() if key.startswith(f"{half}.")}
        if half == "offload" and any(mine.get(size) is not None for size in SIZES):
            given = {key: value for key, value in given.items() if key not in SIZES}
        made[half] = {**({"kind": kind} if kind else {}), **given, **mine}
    if policy.offload is not None:
        made["offload"] |= {part: made.pop(part) for part in PARTS}
    return create_policy({"name": name or policy.name, **made})


def measure(bench: Bench, policy: Policy, settings: Mapping[str, Any]) -> Measured:
    """Run a policy with certain settings; what it refuses is noted, not raised."""
    try:
        setup = bench.setup(with_settings(policy, settings))
        recording = run(replace(setup, span_steps=0))
    except MoesimError as error:
        return Measured(failure=str(error))
    if len(recording.steps) < setup.workload.passes:
        raise KeyboardInterrupt
    latency = spread([step["latency_s"] for step in recording.steps])
    ledger = recording.memory
    assert ledger is not None
    held = ledger.at_peak
    return Measured(
        latency_s=latency["mean"],
        latency_p99_s=latency["p99"],
        bound_s=float(np.mean([step["bound_s"] for step in recording.steps])),
        peak_memory_bytes=int(ledger.peak.max()),
        changed_tokens=int(sum(step["changed_tokens"] for step in recording.steps)),
        out_of_memory=bool((ledger.peak > ledger.capacity).any()),
        floor_bytes=int(np.sum([held[owner] for owner in _FLOOR if owner in held], axis=0).max()),
    )


_WORK: list[tuple[Bench, Policy]] = []
"""In a worker process: the bench that it works on, and the policy."""


def prepare(scenario: Scenario, folder: Path | None, policy: Policy) -> None:
    """Make a worker ready."""
    _WORK[:] = [(Bench(scenario, folder), policy)]


def measure_in_worker(settings: Mapping[str, Any]) -> Measured:
    """Run a policy in a worker that is ready."""
    return measure(*_WORK[0], settings)
