"""Policies over several seeds and traces: who is faster, how surely, why, and at what price in memory."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moesim.causes import CAUSES
from moesim.results.comparison import Comparison
from moesim.results.metrics import plain, ratio
from moesim.results.result import Result
from moesim.results.standing import Run, Standing, Unfit, mean_breakdown
from moesim.results.statistics import LEVEL, METHOD, Array, difference_of, mean_of, ratio_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


__all__ = ["Ranking", "Run", "Standing", "Unfit"]


class Ranking:
    """Comparisons of the same policies under several seeds and traces, and what they say together.

    Attributes:
        runs: seeds and traces, in the order asked for.
        comparisons: one comparison per run.
        unfit: policies that could not run, with the reason.
    """

    def __init__(
        self, runs: Sequence[Run], comparisons: Sequence[Comparison], unfit: Sequence[Unfit] = ()
    ) -> None:
        """Put comparisons together.

        Args:
            runs: what tells each comparison from the others, at least one.
            comparisons: one per run, with the same policies and baseline.
            unfit: policies that could not run.
        """
        self.runs = tuple(runs)
        self.comparisons = tuple(comparisons)
        self.unfit = tuple(unfit)

    @property
    def name(self) -> str:
        """Name of the scenario."""
        return self.comparisons[0].name

    @property
    def baseline(self) -> str:
        """The policy that the others are measured against."""
        return self.comparisons[0].baseline.policy

    @property
    def results(self) -> tuple[Result, ...]:
        """All results of all runs."""
        return tuple(result for comparison in self.comparisons for result in comparison.results)

    @cached_property
    def seeds_matter(self) -> bool:
        """Whether runs that differ in their seed differ in anything."""
        groups = self._groups
        return any(
            not np.array_equal(self._steps(first, name), self._steps(other, name))
            for group in groups
            for first, other in pairwise(group)
            for name in self._names
        )

    @property
    def _names(self) -> list[str]:
        return [result.policy for result in self.comparisons[0].results]

    @cached_property
    def _groups(self) -> list[list[int]]:
        """Runs by scenario and trace."""
        groups: dict[tuple[str, str | None], list[int]] = {}
        for place, run in enumerate(self.runs):
            groups.setdefault((run.scenario, run.trace), []).append(place)
        return list(groups.values())

    def _steps(self, run: int, policy: str) -> Array:
        return np.asarray(self.comparisons[run][policy].steps["latency_s"], dtype=np.float64)

    def _strata(self, policy: str) -> list[list[Array]]:
        # Seeds that change nothing are no evidence.
        groups = self._groups if self.seeds_matter else [group[:1] for group in self._groups]
        return [[self._steps(run, policy) for run in group] for group in groups]

    @cached_property
    def standings(self) -> tuple[Standing, ...]:
        """How each policy does, in the order asked for."""
        samples = {name: self._strata(name) for name in self._names}
        base = samples[self.baseline]
        means = {name: mean_of(samples[name]) for name in self._names}
        fits = {name: all(not c[name].out_of_memory for c in self.comparisons) for name in self._names}
        order = sorted(self._names, key=lambda name: (not fits[name], means[name].mean))
        peaks = {name: max(c[name].peak_memory_bytes for c in self.comparisons) for name in self._names}
        found = []
        for name in self._names:
            place = order.index(name)
            above = order[place - 1] if place else None
            results = tuple(comparison[name] for comparison in self.comparisons)
            mine = mean_breakdown(results)
            theirs = mean_breakdown([comparison.baseline for comparison in self.comparisons])
            changes = {cause: mine[cause] - theirs[cause] for cause in CAUSES}
            found.append(
                Standing(
                    name=name,
                    results=results,
                    rank=place + 1,
                    tied=None if above is None else difference_of(samples[name], samples[above]).around(0.0),
                    latency=means[name],
                    speedup=ratio_of(base, samples[name]),
                    difference=difference_of(samples[name], base),
                    bound_s=float(np.mean([result.bound_s for result in results])),
                    changes_s=dict(sorted(changes.items(), key=lambda item: -abs(item[1]))),
                    peak_memory_bytes=peaks[name],
                    memory_cost_bytes=peaks[name] - peaks[self.baseline],
                    memory_ratio=ratio(peaks[name], peaks[self.baseline]),
                )
            )
        return tuple(found)

    @property
    def ranked(self) -> tuple[Standing, ...]:
        """The same, best first."""
        return tuple(sorted(self.standings, key=lambda standing: standing.rank))

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data, ready for JSON."""
        return {
            "baseline": self.baseline,
            "policies": [plain(standing.to_dict()) for standing in self.standings],
            "ranking": [standing.name for standing in self.ranked],
            "unfit": [{"name": one.name, "reason": one.reason} for one in self.unfit],
            "runs": [{"scenario": run.scenario, "trace": run.trace, "seed": run.seed} for run in self.runs],
            "interval": {"level": LEVEL, "method": METHOD, "over": self.over},
        }

    @property
    def over(self) -> str:
        """What the intervals are over: steps or seeds."""
        several = self.seeds_matter and all(len(group) > 1 for group in self._groups)
        return "seeds" if several else "steps"

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row per policy, best first, indexed by its name; intervals as two columns each."""
        import pandas as pd

        rows = []
        for one in self.ranked:
            row = {"policy": one.name, "rank": one.rank}
            for name, estimate in (
                ("latency_s", one.latency),
                ("speedup", one.speedup),
                ("difference_s", one.difference),
            ):
                row |= {name: estimate.mean, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
            row |= {"bound_s": one.bound_s, "above_bound_s": one.latency.mean - one.bound_s}
            row |= {"peak_memory_bytes": one.peak_memory_bytes, "memory_ratio": one.memory_ratio}
            row |= {"fits": one.fits, **{f"{cause}_change_s": one.changes_s[cause] for cause in CAUSES}}
            rows.append(row)
        return pd.DataFrame(rows).set_index("policy")

    def explain(self) -> list[str]:
        """Say in words how the policies rank, why, and which could not run."""
        from moesim.results.explain_ranking import explain_ranking

        return explain_ranking(self)

    def save(self, directory: str | Path, *, timing: bool = True) -> Path:
        """Write the ranking and the comparison of every run to a directory.

        Raises:
            InputError: the directory exists and is not an earlier run, or cannot be written.
        """
        from moesim.results.ranking_store import save_ranking

        return save_ranking(self, directory, timing=timing)

    def plot(self) -> Figure:
        """Speed-ups with their intervals, best first, and the memory that they take."""
        from moesim.results.plots.ranking import ranking_chart

        return ranking_chart(self)

    def __repr__(self) -> str:
        """Name the policies, best first."""
        parts = ", ".join(f"{one.name} {one.speedup.mean:.2f}x" for one in self.ranked)
        return f"<Ranking {self.name}: {parts}>"
