"""How one policy does over several seeds and traces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from moesim.causes import CAUSES
from moesim.results.explain import cause_words
from moesim.results.metrics import ratio, spread
from moesim.results.result import Result
from moesim.results.statistics import Estimate


@dataclass(frozen=True)
class Run:
    """One comparison among several.

    Attributes:
        scenario: name of the scenario.
        trace: its trace, None where routing is generated.
        seed: its seed.
    """

    scenario: str
    trace: str | None
    seed: int

    @property
    def label(self) -> str:
        """What tells it from others."""
        return f"{self.trace or self.scenario}, seed {self.seed}"


@dataclass(frozen=True)
class Unfit:
    """A policy that cannot run in a scenario.

    Attributes:
        name: the policy.
        reason: what stands in its way.
    """

    name: str
    reason: str


@dataclass(frozen=True)
class Standing:
    """How one policy does over all runs.

    Attributes:
        name: the policy.
        results: its results, one per run.
        rank: place by mean latency, from 1; policies that run out of memory come last.
        tied: whether the interval of the difference to the policy of the rank above contains zero.
        latency: mean latency of a step (s).
        speedup: mean latency of the baseline over its own.
        difference: mean latency minus that of the baseline, step by step (s).
        bound_s: mean lower bound of a step (s).
        changes_s: seconds that each cause gained or lost against the baseline, most changed first.
        peak_memory_bytes: largest peak of all runs (B).
        memory_cost_bytes: that peak minus the baseline's (B).
        memory_ratio: that peak over the baseline's.
    """

    name: str
    results: tuple[Result, ...]
    rank: int
    tied: bool | None
    latency: Estimate
    speedup: Estimate
    difference: Estimate
    bound_s: float
    changes_s: dict[str, float]
    peak_memory_bytes: int
    memory_cost_bytes: int
    memory_ratio: float

    @property
    def fits(self) -> bool:
        """Whether it stays within memory in all runs."""
        return not any(result.out_of_memory for result in self.results)

    @property
    def exact(self) -> bool:
        """Whether it leaves the output of the model as it is."""
        return all(result.exact for result in self.results)

    @property
    def reason(self) -> list[str]:
        """Which causes grew or shrank, largest change first."""
        base = self.latency.mean - self.difference.mean
        return cause_words(self.changes_s, base, 3)

    def to_dict(self) -> dict[str, Any]:
        """Return all figures as plain data."""
        first, results = self.results[0], self.results
        troubles = [trouble for result in results for trouble in result.out_of_memory or []]
        steps = np.concatenate([result.steps["latency_s"].to_numpy() for result in results])
        return {
            "name": self.name,
            "parameters": first.parameters,
            "latency_s": spread(steps) | {"mean": self.latency.mean},
            "speedup": self.speedup.mean,
            "peak_memory_bytes": self.peak_memory_bytes,
            "memory_ratio": self.memory_ratio,
            "bound_fraction": ratio(self.bound_s, self.latency.mean),
            "imbalance": float(np.mean([result.imbalance for result in results])),
            "out_of_memory": troubles or False,
            "breakdown_s": mean_breakdown(results),
            "notes": list(dict.fromkeys(note for result in results for note in result.notes)),
            "exact": self.exact,
            "dropped_copies": sum(result.dropped_copies for result in results),
            "changed_tokens": sum(result.changed_tokens for result in results),
            "offload": mean_offload(results),
            "rank": self.rank,
            "tied": self.tied,
            "latency_interval_s": self.latency.interval,
            "speedup_interval": self.speedup.interval,
            "difference_s": self.difference.mean,
            "difference_interval_s": self.difference.interval,
            "above_bound_s": self.latency.mean - self.bound_s,
            "changes_s": self.changes_s,
            "reason": self.reason,
            "memory_cost_bytes": self.memory_cost_bytes,
            "run_latency_s": [result.latency_s["mean"] for result in results],
        }


def mean_breakdown(results: Sequence[Result]) -> dict[str, float]:
    """Return seconds by cause, mean over runs."""
    return {cause: float(np.mean([result.breakdown_s[cause] for result in results])) for cause in CAUSES}


def mean_offload(results: Sequence[Result]) -> dict[str, float | None] | None:
    """Return the figures of runs that offload, each a mean over the runs that have it; None without any."""
    found = [figures for result in results if (figures := result.offload) is not None]
    if not found:
        return None
    known = {key: [figures[key] for figures in found if figures[key] is not None] for key in found[0]}
    return {key: float(np.mean(values)) if values else None for key, values in known.items()}
