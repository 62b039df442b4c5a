"""What one policy did in one scenario: tidy tables, a summary, plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from moesim import __version__
from moesim.causes import CAUSES
from moesim.results.frames import build_all
from moesim.results.memory import overflows, own_memory
from moesim.results.metrics import bound_fraction, plain, ratio, spread

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """One policy run in one scenario.

    Attributes:
        name: name of the scenario.
        policy: name of the policy.
        parameters: its resolved parameters.
        scenario: the resolved scenario that made this result, plain data.
        seed: seed of all random streams.
        tables: data frames by table name, see ``moesim.results.columns.TABLES``; ``attrs["units"]`` of
            each maps column to unit.
        version: version of moesim that made it.
        wall_s: time the simulation took on this machine (s), if measured.
        events: events that the simulator processed.
        notes: what is to be known about its prices, for example where measured tables did not reach.
        exact: whether the policy leaves the output of the model as it is.
    """

    name: str
    policy: str
    parameters: Mapping[str, Any]
    scenario: Mapping[str, Any]
    seed: int
    tables: Mapping[str, pd.DataFrame] = field(repr=False)
    version: str = __version__
    wall_s: float | None = None
    events: int = 0
    notes: tuple[str, ...] = ()
    exact: bool = True

    @classmethod
    def from_tables(
        cls,
        tables: Mapping[str, pd.DataFrame | Mapping[str, Any]],
        *,
        name: str,
        policy: str,
        parameters: Mapping[str, Any] | None = None,
        scenario: Mapping[str, Any] | None = None,
        seed: int = 0,
        version: str = __version__,
        wall_s: float | None = None,
        events: int | None = None,
        notes: Sequence[str] = (),
        exact: bool = True,
    ) -> Result:
        """Build a result from recorded columns, with types and units as the dictionary declares them.

        Args:
            tables: frame or mapping of column to values by table name; spans and critical_path may be
                left out.
            name: name of the scenario.
            policy: name of the policy.
            parameters: resolved parameters of the policy.
            scenario: resolved scenario as plain data.
            seed: seed of all random streams.
            version: version of moesim that made the tables.
            wall_s: time the simulation took (s), None where it was not measured.
            events: events processed; by default those of all steps.
            notes: what is to be known about its prices.
            exact: whether the policy leaves the output of the model as it is.

        Raises:
            BrokenLawError: a table or column is missing or unknown, or the tables contradict themselves.
        """
        frames = build_all(tables)
        return cls(
            name=name,
            policy=policy,
            parameters=plain(parameters or {}),
            scenario=plain(scenario or {}),
            seed=seed,
            tables=frames,
            version=version,
            wall_s=wall_s,
            events=int(frames["steps"]["events"].sum()) if events is None else events,
            notes=tuple(notes),
            exact=exact,
        )

    @property
    def steps(self) -> pd.DataFrame:
        """One row per step."""
        return self.tables["steps"]

    @property
    def layers(self) -> pd.DataFrame:
        """One row per layer of a step."""
        return self.tables["layers"]

    @property
    def devices(self) -> pd.DataFrame:
        """One row per device, layer and step."""
        return self.tables["devices"]

    @property
    def memory(self) -> pd.DataFrame:
        """One row per device and owner of bytes at the device's peak."""
        return self.tables["memory"]

    @property
    def links(self) -> pd.DataFrame:
        """One row per directed link."""
        return self.tables["links"]

    @property
    def spans(self) -> pd.DataFrame:
        """One row per interval on a stream of a device, for the recorded window."""
        return self.tables["spans"]

    @property
    def critical_path(self) -> pd.DataFrame:
        """One row per cause on the chain that set the latency of a layer."""
        return self.tables["critical_path"]

    @cached_property
    def latency_s(self) -> dict[str, float]:
        """Step latency: mean, p50, p95 and p99 over steps (s)."""
        return spread(self.steps["latency_s"].to_numpy())

    @property
    def throughput_tokens_per_s(self) -> float:
        """Tokens of all steps over the time of all steps (tokens/s); 0 where there was no token."""
        tokens = float(self.steps["tokens"].sum())
        return ratio(tokens, float(self.steps["latency_s"].sum())) if tokens else 0.0

    @property
    def dropped_copies(self) -> int:
        """Token copies that were not computed, over all steps and MoE layers."""
        return int(self.steps["dropped_copies"].sum())

    @property
    def changed_tokens(self) -> int:
        """Tokens that got another output than the model's own, added up over steps and MoE layers."""
        return int(self.steps["changed_tokens"].sum())

    @cached_property
    def peak_memory_bytes(self) -> int:
        """Largest peak of any device's own memory (B)."""
        own = own_memory(self.memory)
        return int(own["peak_bytes"].max()) if len(own) else 0

    @cached_property
    def out_of_memory(self) -> list[dict[str, Any]] | Literal[False]:
        """Devices that ran out: which, when, holding what; False where none did."""
        return overflows(self.memory) or False

    @property
    def bound_s(self) -> float:
        """Mean lower bound of a step (s)."""
        return float(self.steps["bound_s"].mean())

    @property
    def bound_fraction(self) -> float:
        """Mean lower bound over mean latency; 1 cannot be beaten."""
        return bound_fraction(self.bound_s, self.latency_s["mean"])

    @property
    def imbalance(self) -> float:
        """Largest over mean copies per device, mean over steps and MoE layers; 1 is even."""
        return float(self.steps["imbalance"].mean())

    @cached_property
    def breakdown_s(self) -> dict[str, float]:
        """Seconds of a mean step by cause, in fixed order; sums to the mean latency."""
        means = self.steps[[f"{cause}_s" for cause in CAUSES]].to_numpy().mean(axis=0)
        return {cause: float(seconds) for cause, seconds in zip(CAUSES, means, strict=True)}

    @cached_property
    def offload(self) -> dict[str, Any] | None:
        """Figures of a run that offloads, see ``moesim.results.serving.offload_figures``; else None."""
        from moesim.results.serving import offload_figures

        return offload_figures(self)

    def summary(self, timing: bool = True) -> dict[str, Any]:
        """Return the figures of the run as plain data, ready for JSON.

        Args:
            timing: tell the wall-clock time; without it the summary depends on scenario and seed only.
        """
        figures = {
            "scenario": self.name,
            "seed": self.seed,
            "version": self.version,
            "latency_s": self.latency_s,
            "throughput_tokens_per_s": self.throughput_tokens_per_s,
            "peak_memory_bytes": self.peak_memory_bytes,
            "out_of_memory": self.out_of_memory,
            "bound_s": self.bound_s,
            "breakdown_s": self.breakdown_s,
            "wall_s": self.wall_s if timing else None,
            "events": self.events,
            "notes": list(self.notes),
            "exact": self.exact,
            "dropped_copies": self.dropped_copies,
            "changed_tokens": self.changed_tokens,
            "offload": self.offload,
        }
        return {key: plain(value) for key, value in figures.items()}

    def save(self, directory: str | Path, *, timing: bool = True) -> Path:
        """Write tables, summary, scenario, timeline, plots and report to a directory.

        Raises:
            InputError: the directory exists and is not an earlier run, or cannot be written.
        """
        from moesim.results.store import save

        return save(self, directory, timing=timing)

    def plot_load(self) -> Figure:
        """Heat map of copies per layer and device, relative to the layer's mean."""
        from moesim.results.plots.load import load_map

        return load_map([self])

    def plot_lookups(self) -> Figure:
        """What became of the experts that layers asked for, in a run that offloads."""
        from moesim.results.plots.lookups import lookups

        return lookups([self])

    def plot_layers(self) -> Figure:
        """Latency of each layer and its lower bound."""
        from moesim.results.plots.layers import layer_latency

        return layer_latency([self])

    def plot_memory(self) -> Figure:
        """Peak memory of each device by owner, with its capacity."""
        from moesim.results.plots.memory import memory_by_device

        return memory_by_device(self)

    def plot_breakdown(self) -> Figure:
        """Where the time of a mean step goes."""
        from moesim.results.plots.breakdown import breakdown

        return breakdown([self])

    def plot_layer(
        self, layer: int | None = None, step: int | None = None, devices: int = 8, layers: int = 1
    ) -> Figure:
        """Gantt chart of one layer, or of neighbouring ones, of a recorded step.

        Args:
            layer: transformer layer, the first one; by default the slowest one recorded.
            step: step; by default the first one recorded, where experts are offloaded the first that decodes.
            devices: most devices to show.
            layers: how many layers.

        Raises:
            InputError: no spans were recorded for that layer and step.
        """
        from moesim.results.plots.gantt import gantt

        return gantt(self, layer, step, devices, layers)

    def __repr__(self) -> str:
        """Name the run and its main figures."""
        from moesim.units import format_bytes, format_time

        return (
            f"<Result {self.name}: {self.policy}, {format_time(self.latency_s['mean'])} per step, "
            f"peak {format_bytes(self.peak_memory_bytes)}>"
        )

    def _repr_html_(self) -> str:
        """Show the main figures in a notebook."""
        from moesim.results.report.fragments import result_card

        return result_card(self)
