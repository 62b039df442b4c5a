"""Which mix of data, tensor and expert parallelism suits a scenario: all of them, priced and ranked.

Tutel (arXiv 2206.03382) looks such a mix up in a table of costs for every iteration; this is that table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moesim.errors import InputError
from moesim.experiment import simulate
from moesim.scenario import Scenario, load_scenario
from moesim.scenario.build import build_cluster

if TYPE_CHECKING:
    import pandas as pd

Progress = Callable[[str, int, int], None]

GATHER = "gather"


@dataclass(frozen=True)
class Layout:
    """One way to spread a model.

    Attributes:
        attention_tp: devices that share attention.
        expert_tp: devices that share each expert.
        gather: whether all devices see all tokens instead of being sent those of their experts.
    """

    attention_tp: int
    expert_tp: int
    gather: bool

    def overrides(self) -> list[str]:
        """Return what changes in the scenario."""
        changes = [
            f"parallelism.attention_tp={self.attention_tp}",
            f"parallelism.expert_tp={self.expert_tp}",
        ]
        return [*changes, f"kernels.exchange={GATHER}"] if self.gather else changes


def layouts(devices: int, per_node: int) -> Iterator[Layout]:
    """Yield the mixes whose tensor-parallel groups fit into a node, plain expert parallelism first."""
    groups = [size for size in range(1, min(devices, per_node) + 1) if devices % size == per_node % size == 0]
    for expert_tp in groups:
        for attention_tp in groups:
            for gather in (False, True):
                # With every expert on every device nothing is left to be sent.
                if expert_tp < devices or gather or devices == 1:
                    yield Layout(attention_tp, expert_tp, gather)


def compare_layouts(
    scenario: str,
    overrides: Sequence[str] = (),
    seed: int | None = None,
    policy: str | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Run one policy of a scenario under every mix.

    Args:
        scenario: path of the scenario.
        overrides: ``key=value`` changes to it.
        seed: seed of all random streams.
        policy: the policy to run, by default the scenario's first.
        progress: called with (layout, layouts done, layouts in all).

    Returns:
        One row per mix, those that fit into memory first, fastest first: attention_tp, expert_tp, ranks
        (expert-parallel ranks), exchange, latency_s, tokens_per_s, peak_memory_bytes, fits, reason (why it
        cannot run; empty if it can).

    Raises:
        InputError: the scenario cannot be used at all.
    """
    import numpy as np
    import pandas as pd

    given = load_scenario(scenario, overrides=list(overrides), seed=seed)
    cluster = build_cluster(given)
    per_node = int(np.bincount(cluster.node_of).max())
    found = list(layouts(cluster.size, per_node))
    rows = []
    for number, layout in enumerate(found):
        rows.append(_row(layout, cluster.size, scenario, [*overrides, *layout.overrides()], seed, policy))
        if progress is not None:
            progress("layouts", number + 1, len(found))
    frame = pd.DataFrame(rows)
    if (frame["reason"] != "").all():
        raise InputError(str(frame["reason"].iloc[0]))
    order = frame.assign(worse=(~frame["fits"]).astype(int)).sort_values(
        ["worse", "latency_s", "attention_tp", "expert_tp"], kind="stable", na_position="last"
    )
    return order.drop(columns="worse").reset_index(drop=True)


def _row(
    layout: Layout, devices: int, path: str, overrides: list[str], seed: int | None, policy: str | None
) -> dict[str, object]:
    row: dict[str, object] = {
        "attention_tp": layout.attention_tp,
        "expert_tp": layout.expert_tp,
        "ranks": devices // layout.expert_tp,
        "exchange": GATHER if layout.gather else "",
    }
    nothing = {"latency_s": None, "tokens_per_s": None, "peak_memory_bytes": None, "fits": False}
    try:
        scenario: Scenario = load_scenario(path, overrides=overrides, seed=seed)
        result = simulate(scenario, policy)
    except InputError as error:
        return row | nothing | {"reason": error.message}
    if not layout.gather:
        row["exchange"] = str(result.scenario["kernels"].get("exchange", result.scenario["kernels"]["base"]))
    return row | {
        "latency_s": result.latency_s["mean"],
        "tokens_per_s": result.throughput_tokens_per_s,
        "peak_memory_bytes": result.peak_memory_bytes,
        "fits": not result.out_of_memory,
        "reason": "",
    }
