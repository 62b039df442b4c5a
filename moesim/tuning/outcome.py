"""What a search found."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from moesim.policies.base import Policy
from moesim.policies.offload.create import PARTS
from moesim.results.metrics import plain, ratio
from moesim.scenario import Scenario
from moesim.tuning.space import Dimension, Space, parts_of
from moesim.tuning.study import importances, pareto
from moesim.tuning.trial import Trial, with_settings

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_BINS: Final = 4


@dataclass(frozen=True)
class Sensitivity:
    """How much a parameter matters.

    Attributes:
        parameter: ``half.name``.
        importance: share in what sets the best tenth of trials apart (PED-ANOVA); None with few trials.
        effect: mean latency in the worst quarter of its range (or with its worst choice) over that in the
            best, minus 1; None where all trials have one value.
        best: where latency is lowest: a choice, or the middle of that quarter's values.
    """

    parameter: str
    importance: float | None
    effect: float | None
    best: Any


@dataclass(frozen=True, eq=False)
class Outcome:
    """A finished or stopped search.

    Attributes:
        scenario: what ran.
        policy: the policy with the settings that the search began with.
        space: what was searched.
        limit: most bytes that a device may hold (B), None for what it has.
        seed: seed of the search.
        trials: all trials in order; the first one has the policy's own settings.
    """

    scenario: Scenario
    policy: Policy
    space: Space
    limit: float | None
    seed: int
    trials: tuple[Trial, ...]

    @property
    def default(self) -> Trial:
        """The trial with the policy's own settings."""
        return self.trials[0]

    @cached_property
    def best(self) -> Trial | None:
        """The feasible trial with the lowest latency, None where there is none."""
        front = self.pareto
        return front[0] if front else None

    @cached_property
    def pareto(self) -> list[Trial]:
        """Feasible trials that no other beats in latency and memory at once, fastest first."""
        return pareto(self.trials)

    @property
    def speedup(self) -> float | None:
        """Latency of the policy's own settings over the best; None where either cannot run."""
        first = self.default.measured.latency_s
        if self.best is None or first is None or self.best.measured.latency_s is None:
            return None
        return ratio(first, self.best.measured.latency_s)

    @cached_property
    def tuned(self) -> Policy | None:
        """The policy with the best settings."""
        return None if self.best is None else with_settings(self.policy, self.best.settings)

    @cached_property
    def sensitivity(self) -> list[Sensitivity]:
        """How much each parameter matters, most first."""
        shares = importances(self.space, self.trials)
        found = [
            Sensitivity(one.key, shares.get(one.key), *self._effect(one)) for one in self.space.dimensions
        ]
        return sorted(found, key=lambda s: (-(s.importance or 0.0), -(s.effect or 0.0), s.parameter))

    def _effect(self, one: Dimension) -> tuple[float | None, Any]:
        """Return the effect of a parameter and where it is best."""
        pairs = [
            (trial.settings[one.key], trial.measured.latency_s)
            for trial in self.trials
            if trial.measured.latency_s is not None and one.contains(trial.settings[one.key])
        ]
        if one.choices:
            groups = {
                choice: [seconds for value, seconds in pairs if value == choice] for choice in one.choices
            }
            means = {choice: float(np.mean(found)) for choice, found in groups.items() if found}
        else:
            pairs.sort(key=lambda pair: float(pair[0]))
            chunks = [pairs[part[0] : part[-1] + 1] for part in _parts(len(pairs))]
            means = {
                float(np.median([value for value, _ in chunk])): float(np.mean([s for _, s in chunk]))
                for chunk in chunks
            }
        if len(means) < 2:
            return None, None
        best = min(means, key=lambda value: means[value])
        return ratio(max(means.values()), means[best]) - 1.0, best

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row per trial."""
        import pandas as pd

        return pd.DataFrame([trial.row() for trial in self.trials])

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data, ready for JSON."""
        best = self.best
        data = {
            "scenario": self.scenario.name,
            "policy": self.policy.name,
            "seed": self.seed,
            "memory_limit_bytes": self.limit,
            "searched": {one.key: one.text for one in self.space.dimensions},
            "left_out": dict(self.space.left_out),
            "trials": len(self.trials),
            "infeasible": sum(not trial.feasible for trial in self.trials),
            "default": _told(self.default),
            "best": None if best is None else _told(best) | {"policy": self.best_mapping},
            "speedup": self.speedup,
            "sensitivity": [vars(one) for one in self.sensitivity],
            "pareto": [_told(trial) for trial in self.pareto],
        }
        return {key: plain(value) for key, value in data.items()}

    @property
    def best_mapping(self) -> dict[str, Any] | None:
        """The policy with the best settings as a scenario's ``policies`` takes it."""
        tuned = self.tuned
        if tuned is None:
            return None
        written: dict[str, Any] = {
            half: {**({"kind": kind} if kind else {}), **given.model_dump(mode="json", exclude_unset=True)}
            for half, (kind, given) in parts_of(tuned).items()
        }
        if tuned.offload is not None:
            written["offload"] |= {part: written.pop(part) for part in PARTS}
        return {"name": f"{self.policy.name} tuned", **written}

    def plot(self) -> Figure:
        """All trials by latency and memory, with the front."""
        from moesim.tuning.plot import trials_chart

        return trials_chart(self)

    def __repr__(self) -> str:
        """Name the search and what it gained."""
        gain = "nothing feasible" if self.speedup is None else f"{self.speedup:.2f}x"
        return f"<Outcome {self.policy.name} in {self.scenario.name}: {gain} in {len(self.trials)} trials>"


def _parts(count: int) -> list[list[int]]:
    """Cut 0..count-1 into quarters, leaving out empty ones."""
    return [part.tolist() for part in np.array_split(np.arange(count), _BINS) if part.size]


def _told(trial: Trial) -> dict[str, Any]:
    measured = trial.measured
    return {
        "trial": trial.number,
        "settings": dict(trial.settings),
        "latency_s": measured.latency_s,
        "latency_p99_s": measured.latency_p99_s,
        "bound_s": measured.bound_s,
        "peak_memory_bytes": measured.peak_memory_bytes,
        "changed_tokens": measured.changed_tokens,
        "feasible": trial.feasible,
        "failure": measured.failure,
    }
