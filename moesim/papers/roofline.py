"""Published figures of MoE-Lightning, predicted by its roofline (ASPLOS 2025)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, cast

from moesim.policies.offload.lightning import (
    Estimate,
    LightningPolicy,
    Machine,
    Schedule,
    Work,
    best_policy,
    estimate,
)
from moesim.policies.offload.lightning_cases import MIXTRAL_8X7B, S1_T4, S2_L4

Given = Mapping[str, Any]

_MACHINES: Final[Mapping[str, Machine]] = MappingProxyType({"S1": S1_T4, "S2": S2_L4})


@lru_cache(maxsize=64)
def _searched(
    machine: str, prompt: int, generated: int, schedule: Schedule, with_prefill: bool
) -> LightningPolicy:
    work = Work(prompt, generated)
    return best_policy(MIXTRAL_8X7B, _MACHINES[machine], work, schedule, with_prefill)


def _chosen(given: Given, schedule: Schedule, with_prefill: bool) -> tuple[LightningPolicy, Estimate]:
    """Return a policy, the one that is told or the best one, and what the roofline says of it."""
    machine, work = str(given["machine"]), Work(int(given["prompt"]), int(given["generated"]))
    if "micro_batch" in given:
        policy = LightningPolicy(
            int(given["micro_batch"]), int(given["micro_batches"]), weights=float(given.get("weights", 0.0))
        )
    else:
        policy = _searched(machine, work.prompt, work.generated, schedule, with_prefill)
    return policy, estimate(MIXTRAL_8X7B, _MACHINES[machine], work, policy, schedule)


def _schedule(given: Given) -> Schedule:
    return cast("Schedule", given.get("schedule", "cgopipe"))


def _batch(given: Given) -> float:
    return float(_chosen(given, _schedule(given), with_prefill=False)[0].batch)


def _rate(given: Given, schedule: Schedule) -> float:
    """Return tokens per second, prompts included."""
    return _chosen(given, schedule, with_prefill=True)[1].rate


ROOFLINE: Final[Mapping[str, Callable[[Given], float]]] = MappingProxyType(
    {
        "roofline_layer_ms": lambda given: _chosen(given, _schedule(given), False)[1].layer_s * 1e3,
        "roofline_decode_rate": lambda given: _chosen(given, _schedule(given), False)[1].decode_rate,
        "roofline_rate": lambda given: _rate(given, _schedule(given)),
        "roofline_batch": _batch,
        "roofline_speedup": lambda given: _rate(given, _schedule(given)) / _rate(given, "flexgen"),
    }
)
"""Quantities by name; ``given``: machine, prompt, generated, schedule, and a policy if it is not searched."""
