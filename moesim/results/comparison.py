"""Several policies in one scenario, side by side against a baseline."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from moesim.causes import CAUSES
from moesim.errors import InputError, unknown_name
from moesim.results.metrics import plain, ratio
from moesim.results.result import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Comparison:
    """Results of several policies that saw the same tokens, one of them the baseline.

    Attributes:
        results: one result per policy, in the order asked for.
        baseline: the result that the others are measured against.
    """

    def __init__(self, results: Sequence[Result], baseline: str | None = None) -> None:
        """Put results side by side.

        Args:
            results: one result per policy, at least one.
            baseline: name of a policy among them; by default the first.

        Raises:
            InputError: no results, a policy twice, an unknown baseline, or different tokens.
        """
        if not results:
            message = "a comparison needs at least one policy"
            raise InputError(message)
        names = [result.policy for result in results]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            message = f"policy '{twice[0]}' is there twice"
            raise InputError(message, hint="give each policy its own name")
        if baseline is not None and baseline not in names:
            raise unknown_name("policy in this comparison", baseline, names)
        self.results = tuple(results)
        self.baseline = self.results[names.index(baseline) if baseline is not None else 0]
        tokens = self.baseline.steps["tokens"].tolist()
        for result in self.results:
            if result.steps["tokens"].tolist() != tokens:
                message = f"policies '{self.baseline.policy}' and '{result.policy}' saw different tokens"
                raise InputError(message, hint="compare policies under one workload")

    def __getitem__(self, policy: str) -> Result:
        """Return the result of a policy by name."""
        for result in self.results:
            if result.policy == policy:
                return result
        raise unknown_name("policy in this comparison", policy, [result.policy for result in self.results])

    @property
    def name(self) -> str:
        """Name of the scenario."""
        return self.baseline.name

    @property
    def others(self) -> tuple[Result, ...]:
        """All results but the baseline."""
        return tuple(result for result in self.results if result is not self.baseline)

    def speedup(self, result: Result) -> float:
        """Return the mean latency of the baseline over that of a result."""
        return ratio(self.baseline.latency_s["mean"], result.latency_s["mean"])

    def memory_ratio(self, result: Result) -> float:
        """Return the peak memory of a result over that of the baseline."""
        return ratio(result.peak_memory_bytes, self.baseline.peak_memory_bytes)

    def to_dict(self) -> dict[str, Any]:
        """Return the figures of all policies as plain data, ready for JSON."""
        policies = [
            {
                "name": result.policy,
                "parameters": result.parameters,
                "latency_s": result.latency_s,
                "speedup": self.speedup(result),
                "peak_memory_bytes": result.peak_memory_bytes,
                "memory_ratio": self.memory_ratio(result),
                "bound_fraction": result.bound_fraction,
                "imbalance": result.imbalance,
                "out_of_memory": result.out_of_memory,
                "breakdown_s": result.breakdown_s,
                "notes": list(result.notes),
                "exact": result.exact,
                "dropped_copies": result.dropped_copies,
                "changed_tokens": result.changed_tokens,
                "offload": result.offload,
            }
            for result in self.results
        ]
        return {"baseline": self.baseline.policy, "policies": [plain(policy) for policy in policies]}

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row per policy, indexed by its name: latency, speed-up, memory, bound, causes.

        Policies that offload have the figures of ``moesim.results.serving.offload_figures`` besides.
        """
        rows = [
            {
                "policy": result.policy,
                "latency_s": result.latency_s["mean"],
                "latency_p99_s": result.latency_s["p99"],
                "speedup": self.speedup(result),
                "throughput_tokens_per_s": result.throughput_tokens_per_s,
                "bound_s": result.bound_s,
                "bound_fraction": result.bound_fraction,
                "imbalance": result.imbalance,
                "peak_memory_bytes": result.peak_memory_bytes,
                "memory_ratio": self.memory_ratio(result),
                "out_of_memory": bool(result.out_of_memory),
                "exact": result.exact,
                "dropped_copies": result.dropped_copies,
                "changed_tokens": result.changed_tokens,
                **{f"{cause}_s": seconds for cause, seconds in result.breakdown_s.items()},
                **(result.offload or {}),
            }
            for result in self.results
        ]
        return pd.DataFrame(rows).set_index("policy")

    @cached_property
    def changes(self) -> pd.DataFrame:
        """Seconds that each cause gained or lost against the baseline, one row per policy and cause.

        Columns: policy, cause, change_s, share (of the baseline's mean latency); most changed first.
        """
        latency = self.baseline.latency_s["mean"]
        rows = [
            (
                result.policy,
                cause,
                change := result.breakdown_s[cause] - self.baseline.breakdown_s[cause],
                change / latency if latency else 0.0,
            )
            for result in self.others
            for cause in CAUSES
        ]
        rows.sort(key=lambda row: -abs(row[2]))
        order = {result.policy: place for place, result in enumerate(self.results)}
        rows.sort(key=lambda row: order[row[0]])
        return pd.DataFrame(rows, columns=["policy", "cause", "change_s", "share"])

    def explain(self) -> list[str]:
        """Say in words what each policy gains or loses against the baseline, and why."""
        from moesim.results.explain import explain

        return explain(self)

    def save(self, directory: str | Path, *, timing: bool = True) -> Path:
        """Write the comparison, each policy's run, plots and report to a directory.

        Raises:
            InputError: the directory exists and is not an earlier run, or cannot be written.
        """
        from moesim.results.store import save

        return save(self, directory, timing=timing)

    def plot(self) -> Figure:
        """Overview: time by cause, memory by owner, latency by layer, load by device."""
        from moesim.results.plots.overview import overview

        return overview(self)

    def plot_breakdown(self) -> Figure:
        """Where the time of a mean step goes, by policy."""
        from moesim.results.plots.breakdown import breakdown

        return breakdown(self.results, self.baseline)

    def plot_layers(self) -> Figure:
        """Latency of each layer by policy."""
        from moesim.results.plots.layers import layer_latency

        return layer_latency(self.results)

    def plot_load(self) -> Figure:
        """Heat maps of copies per layer and device, one per policy on one scale."""
        from moesim.results.plots.load import load_map

        return load_map(self.results)

    def plot_lookups(self) -> Figure:
        """What became of the experts that layers asked for, by policy that offloads."""
        from moesim.results.plots.lookups import lookups

        return lookups([result for result in self.results if len(result.tables["caches"])])

    def plot_memory(self) -> Figure:
        """Memory of each policy's fullest device by owner."""
        from moesim.results.plots.memory import memory_by_policy

        return memory_by_policy(self.results)

    def __repr__(self) -> str:
        """Name the policies and their speed-ups."""
        parts = ", ".join(f"{result.policy} {self.speedup(result):.2f}x" for result in self.results)
        return f"<Comparison {self.name}: {parts}>"

    def _repr_html_(self) -> str:
        """Show the policies in a notebook."""
        from moesim.results.report.fragments import comparison_card

        return comparison_card(self)
