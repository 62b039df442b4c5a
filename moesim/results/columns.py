"""The column dictionary: every table of a result, every column with its unit and meaning.

The one source for building, checking, storing and documenting tables; ``docs/results.md`` is made
from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from moesim.causes import CAUSE_MEANING, CAUSES

Kind = Literal["int64", "float64", "bool", "str"]


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        name: column name; ends in its unit where it has one.
        unit: ``s``, ``B``, ``B/s``, a counted noun, or empty for names and ratios.
        kind: numpy type of the values.
        meaning: what the number says, one sentence.
    """

    name: str
    unit: str
    kind: Kind
    meaning: str


@dataclass(frozen=True)
class Table:
    """One table of a result.

    Attributes:
        name: table name.
        row: what one row stands for.
        columns: columns in order.
        optional: an empty table is used where the run did not record it.
    """

    name: str
    row: str
    columns: tuple[Column, ...]
    optional: bool = False

    @property
    def names(self) -> list[str]:
        """Column names in order."""
        return [column.name for column in self.columns]

    @property
    def units(self) -> dict[str, str]:
        """Unit by column name."""
        return {column.name: column.unit for column in self.columns}


_STEP = Column("step", "", "int64", "step of the run, from 0")
_LAYER = Column("layer", "", "int64", "transformer layer, from 0")
_DEVICE = Column("device", "", "int64", "device, from 0 in cluster order")
_LATENCY = Column("latency_s", "s", "float64", "time from the start to the moment the last device is done")
_BOUND = Column(
    "bound_s", "s", "float64", "lower bound: no policy can be faster on this hardware with this load"
)
_CAUSES = tuple(
    Column(f"{cause}_s", "s", "float64", f"{CAUSE_MEANING[cause]}; mean over devices") for cause in CAUSES
)

STEPS: Final = Table(
    "steps",
    "one step",
    (
        _STEP,
        _LATENCY,
        _BOUND,
        Column(
            "tokens",
            "tokens",
            "int64",
            "tokens that entered the step, over all devices; in training those of one micro-batch, because "
            "another one leaves with its backward pass",
        ),
        Column("copies", "copies", "int64", "token copies computed by routed experts, over all MoE layers"),
        Column(
            "dropped_copies", "copies", "int64", "token copies that the policy left out, over all MoE layers"
        ),
        Column(
            "changed_tokens",
            "tokens",
            "int64",
            "tokens that a MoE layer gave another output than the model's own, added up over MoE layers",
        ),
        Column(
            "imbalance", "", "float64", "largest over mean copies per device; mean over MoE layers, 1 is even"
        ),
        Column(
            "moved_bytes",
            "B",
            "float64",
            "expert weights sent between devices, in training once per pass and with their gradients",
        ),
        Column(
            "migrated_bytes",
            "B",
            "float64",
            "expert weights that devices began to load for a refreshed placement before the step",
        ),
        Column("events", "events", "int64", "events that the simulator processed"),
        *_CAUSES,
    ),
)

LAYERS: Final = Table(
    "layers",
    "one layer of one step",
    (
        _STEP,
        _LAYER,
        _LATENCY,
        Column(
            "bound_s",
            "s",
            "float64",
            "lower bound of the layer, network apart: best balance of compute and memory traffic",
        ),
        Column(
            "imbalance",
            "",
            "float64",
            "largest over mean copies per device, 1 is even; empty in dense layers",
        ),
        Column("straggler", "", "int64", "device that was busy longest; -1 in dense layers"),
        Column("moves", "moves", "int64", "expert weights sent, one per (expert, target device)"),
        Column(
            "dispatch_busy_s",
            "s",
            "float64",
            "time in which dispatches and weight moves beside them are under way, hidden or not",
        ),
        Column("combine_busy_s", "s", "float64", "the same for combines"),
        *_CAUSES,
    ),
)

DEVICES: Final = Table(
    "devices",
    "one device in one layer of one step",
    (
        _STEP,
        _LAYER,
        _DEVICE,
        Column("copies", "copies", "int64", "token copies that the device computed"),
        Column("experts", "experts", "int64", "experts with at least one copy on the device"),
        Column("busy_s", "s", "float64", "time in which the device did something"),
        Column("wait_s", "s", "float64", "time in which it waited for others"),
        Column("experts_s", "s", "float64", "time of its routed experts' matrix multiplications"),
        Column("received_bytes", "B", "float64", "token bytes it received from other devices by dispatch"),
    ),
)

MEMORY: Final = Table(
    "memory",
    "one owner of bytes on one device, at the moment of that device's peak",
    (
        _DEVICE,
        Column("node", "", "int64", "node that the device is in"),
        Column("tier", "", "str", "memory tier: HBM, DRAM ..."),
        Column("owner", "", "str", "what the bytes are for"),
        Column("bytes", "B", "int64", "bytes that the owner held when the device was at its peak"),
        Column("peak_bytes", "B", "int64", "the device's peak: the sum over owners"),
        Column("capacity_bytes", "B", "int64", "capacity of the tier on that device"),
        Column("out_of_memory", "", "bool", "whether the peak is above the capacity"),
        Column("step", "", "int64", "step of the peak"),
        Column("layer", "", "int64", "layer of the peak"),
        Column(
            "stage",
            "",
            "str",
            "stage of the layer: dispatch, experts, reorder or combine; migration before it",
        ),
    ),
)

LINKS: Final = Table(
    "links",
    "one directed link",
    (
        Column("link", "", "str", "from and to node of the cluster graph"),
        Column("kind", "", "str", "kind of link: nvlink, pcie, ib ..."),
        Column("bytes", "B", "float64", "bytes that crossed the link in the run"),
        Column("seconds_at_rate", "s", "float64", "bytes over bandwidth: the least time they can take"),
        Column("utilisation", "", "float64", "that time as a share of the run"),
        Column("bandwidth_bytes_per_s", "B/s", "float64", "usable bandwidth"),
    ),
)

SPANS: Final = Table(
    "spans",
    "one interval on one stream of one device; recorded for a window of steps only",
    (
        _STEP,
        _LAYER,
        _DEVICE,
        Column(
            "stream",
            "",
            "str",
            "compute, network or host; cpu, copy in and copy out where experts are offloaded",
        ),
        Column("cause", "", "str", "what the time is spent on; a copy in is an expert_load or a prefetch"),
        Column("start_s", "s", "float64", "start, since the start of the run"),
        Column("end_s", "s", "float64", "end, since the start of the run"),
    ),
    optional=True,
)

CRITICAL_PATH: Final = Table(
    "critical_path",
    "one cause on the chain of waits that set the latency of a layer",
    (
        _STEP,
        _LAYER,
        Column("cause", "", "str", "what the time is spent on"),
        Column("device", "", "int64", "device that set the pace; -1 where all were on the network together"),
        Column("seconds", "s", "float64", "time; the rows of a step sum to its latency"),
    ),
    optional=True,
)

_CACHE_COUNTS: Final = (
    Column("accesses", "", "int64", "experts looked up, each once per device, layer and pass"),
    Column("hits", "", "int64", "of these, in device memory when the router answered"),
    Column("low_hits", "", "int64", "hits that are in low precision only"),
    Column("late", "", "int64", "experts on their way by a prefetch, but not there yet"),
    Column("loads", "", "int64", "experts loaded on demand in full precision"),
    Column("low_loads", "", "int64", "experts loaded on demand in low precision"),
    Column(
        "cpu", "", "int64", "experts computed on the host's CPU, among them hits that a split leaves to it"
    ),
    Column("skipped", "", "int64", "experts that were left out"),
    Column("prefetches", "", "int64", "prefetches begun for the layer"),
    Column("used", "", "int64", "prefetched experts that the layer then needed, there in time or not"),
    Column("in_time", "", "int64", "of these, there when the router answered"),
    Column("wasted", "", "int64", "prefetched experts that it did not need"),
)

ITERATIONS: Final = Table(
    "iterations",
    "one pass through the model of a run that offloads",
    (
        _STEP,
        Column("group", "", "int64", "requests that are served at a time, from 0"),
        Column("phase", "", "str", "prefill or decode"),
        Column("context", "tokens", "int64", "tokens of a prompt, or in each KV cache"),
        Column("sequences", "", "int64", "sequences over all devices"),
        *_CACHE_COUNTS,
        Column("loaded_bytes", "B", "float64", "bytes asked for on demand"),
        Column("prefetched_bytes", "B", "float64", "bytes of prefetches begun"),
        Column("wasted_bytes", "B", "float64", "bytes of prefetches found to have been in vain"),
        Column(
            "energy_j",
            "J",
            "float64",
            "energy if devices and CPUs drew their rated power; 0 where that is unknown",
        ),
    ),
    optional=True,
)

CACHES: Final = Table(
    "caches",
    "one MoE layer on one device, over a whole run that offloads",
    (
        _DEVICE,
        _LAYER,
        Column("slots", "experts", "int64", "experts that the cache holds; of a shared one, for all layers"),
        *_CACHE_COUNTS,
    ),
    optional=True,
)

TABLES: Final[Mapping[str, Table]] = MappingProxyType(
    {
        table.name: table
        for table in (STEPS, LAYERS, DEVICES, MEMORY, LINKS, SPANS, CRITICAL_PATH, ITERATIONS, CACHES)
    }
)
"""All tables of a result by name."""

SUMMARY_KEYS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "scenario": "name of the scenario",
        "seed": "seed of all random streams",
        "version": "version of moesim",
        "latency_s": "object with `mean`, `p50`, `p95` and `p99` of the step latency (s)",
        "throughput_tokens_per_s": "tokens of all steps over the time of all steps (tokens/s)",
        "peak_memory_bytes": "largest peak of any device's own memory (B)",
        "out_of_memory": "`false`, or a list of devices that ran out: `device`, `when` (`step`, `layer`, "
        "`stage`), `needed_bytes`, `capacity_bytes`, `holding` (bytes by owner)",
        "bound_s": "mean lower bound of a step (s)",
        "breakdown_s": "object with seconds by cause, mean over steps and devices; sums to the mean latency",
        "wall_s": "time the simulation took on this machine (s); `null` where timing is off",
        "events": "events that the simulator processed",
        "notes": "list of what is to be known about prices and placements, for example where measured tables"
        " end or how far a placement may be from the optimum",
        "exact": "whether the policy leaves the output of the model as it is",
        "dropped_copies": "token copies that were not computed, all steps and MoE layers",
        "changed_tokens": "tokens that got another output than the model's own, added up over steps and MoE "
        "layers",
        "offload": "of runs that offload experts, else `null`: object with `ttft_s` (mean time of a "
        "prompt's pass), "
        "`tpot_s` (mean time of a decoded token), `decode_tokens_per_s`, `output_tokens_per_s`; `hit_rate`, "
        "`low_hit_share`, `late_share`, `cpu_share` and `skipped_share` of lookups; `load_wait_share` and "
        "`cpu_wait_share` of time; `loaded_bytes_per_pass`, `prefetched_bytes_per_pass`, `wasted_share` of "
        "prefetched bytes, `prefetch_accuracy`, `good_pred` (prefetched, needed and in time; ProMoE's "
        "measure), "
        "`energy_j_per_token` at rated power",
    }
)
"""Keys of the summary of one run."""

POLICY_KEYS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "name": "name of the policy",
        "parameters": "its resolved parameters",
        "latency_s": "as above",
        "speedup": "mean latency of the baseline over the policy's own",
        "peak_memory_bytes": "as above (B)",
        "memory_ratio": "the policy's peak memory over that of the baseline",
        "bound_fraction": "mean lower bound over mean latency; 1 cannot be beaten",
        "imbalance": "largest over mean copies per device; mean over steps and MoE layers",
        "out_of_memory": "as above",
        "breakdown_s": "as above (s)",
        "notes": "as above",
        "exact": "as above",
        "dropped_copies": "as above",
        "changed_tokens": "as above",
        "offload": "as above",
    }
)
"""Keys of one policy in a comparison."""

STANDING_KEYS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "rank": "place by mean latency, from 1; policies that run out of memory come last",
        "tied": "whether the interval of the difference to the policy of the rank above contains zero; "
        "`null` without one",
        "latency_interval_s": "both ends of the interval of the mean latency (s); `null` after a single step",
        "speedup_interval": "the same of the speed-up",
        "difference_s": "mean latency minus that of the baseline, step by step (s)",
        "difference_interval_s": "its interval (s)",
        "above_bound_s": "mean latency minus the mean lower bound (s)",
        "changes_s": "object with seconds gained or lost against the baseline by cause, most changed first",
        "reason": "the largest of these in words",
        "memory_cost_bytes": "peak memory minus that of the baseline (B)",
        "run_latency_s": "mean latency in each run (s)",
    }
)
"""Keys of one policy in a ranking, beside those in a comparison; means and peaks are over all runs."""

RANKING_KEYS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "ranking": "names of the policies, best first",
        "unfit": "list of policies that cannot run in the scenario: `name`, `reason`",
        "runs": "list of what was repeated: `scenario`, `trace` (`null` where routing is generated), `seed`",
        "interval": "`level` and `method` of the intervals, and whether they are `over` steps or seeds",
    }
)
"""Keys of a ranking, beside those of a comparison."""
