"""Published figures of offloading runs: of one run, of one beside another, of one expert, and of caches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from moesim.engine.offload.runner import OffloadRunner
from moesim.errors import InputError
from moesim.policies.offload.precision import HIGH, LOW, SKIP, precision_of
from moesim.routing.locality import Accesses, hit_rate_curves
from moesim.routing.requests import token_source

if TYPE_CHECKING:
    from moesim.engine.setup import Setup
    from moesim.results import Result

_WINDOW: Final = 16
"""Tokens that the segment cache looks ahead, as in local routing consistency (arXiv 2505.16056)."""

_LENGTH: Final = 128
"""Tokens of the sequence that caches are looked at with."""

_GATES: Final = 512
"""Tokens whose gate weights are looked at."""


def _figure(result: Result, name: str) -> float:
    figures = result.offload
    if figures is None or figures[name] is None:
        message = f"policy '{result.policy}' of '{result.name}' has no figure '{name}'"
        raise InputError(message, hint="an offloading policy, with requests of a prompt and output, has them")
    return float(figures[name])


def _waiting(result: Result, phase: str) -> float:
    """Return the share of the passes of a phase in which devices wait for weights."""
    chosen = result.tables["iterations"].loc[lambda passes: passes["phase"] == phase, "step"]
    layers = result.tables["layers"]
    waits = layers.loc[layers["step"].isin(chosen), "expert_load_s"].sum()
    steps = result.steps
    return float(waits / steps.loc[steps["step"].isin(chosen), "latency_s"].sum())


def _missed(result: Result, name: str) -> float:
    """Return the share of the misses of decoding, loaded or skipped, that are of one kind."""
    passes = result.tables["iterations"]
    total = passes.loc[passes["phase"] == "decode", ["loads", "low_loads", "skipped"]].sum()
    return float(total[name] / total.sum())


OF_RUN: Final[Mapping[str, Callable[[Result], float]]] = MappingProxyType(
    {
        "ttft_s": lambda result: _figure(result, "ttft_s"),
        "tpot_ms": lambda result: _figure(result, "tpot_s") * 1e3,
        "decode_tokens_per_s": lambda result: _figure(result, "decode_tokens_per_s"),
        "output_tokens_per_s": lambda result: _figure(result, "output_tokens_per_s"),
        "hit_rate": lambda result: _figure(result, "hit_rate"),
        "good_pred": lambda result: _figure(result, "good_pred"),
        "prefill_wait_share": lambda result: _waiting(result, "prefill"),
        "decode_wait_share": lambda result: _waiting(result, "decode"),
        "miss_high_share": lambda result: _missed(result, "loads"),
        "miss_low_share": lambda result: _missed(result, "low_loads"),
        "miss_skip_share": lambda result: _missed(result, "skipped"),
    }
)
"""Quantities of one run that offloads."""

OF_TWO: Final[Mapping[str, Callable[[Result, Result], float]]] = MappingProxyType(
    {
        "decode_speedup": lambda result, other: _figure(other, "tpot_s") / _figure(result, "tpot_s"),
        "prefill_speedup": lambda result, other: _figure(other, "ttft_s") / _figure(result, "ttft_s"),
        "prefill_reduction": lambda result, other: 1 - _figure(result, "ttft_s") / _figure(other, "ttft_s"),
        "output_speedup": lambda result, other: (
            _figure(result, "output_tokens_per_s") / _figure(other, "output_tokens_per_s")
        ),
        "hit_rate_gain": lambda result, other: _figure(result, "hit_rate") - _figure(other, "hit_rate"),
        "memory_saving": lambda result, other: 1 - result.peak_memory_bytes / other.peak_memory_bytes,
    }
)
"""Quantities of a run beside that of its baseline."""


def _expert_load_ms(setup: Setup, given: Mapping[str, Any]) -> float:
    runner = OffloadRunner(setup)
    return runner.loader.alone(0, float(runner.prices.bytes.max())) * 1e3


def _layer_load_ms(setup: Setup, given: Mapping[str, Any]) -> float:
    return _expert_load_ms(setup, given) * setup.model.experts


def _layer_compute_ms(setup: Setup, given: Mapping[str, Any]) -> float:
    """Return the time of all experts of a layer, with a token each and all weights there."""
    return OffloadRunner(setup).prices.experts(0, 0, (1,) * setup.model.experts) * 1e3


def _cpu_expert_ms(setup: Setup, given: Mapping[str, Any]) -> float:
    prices = OffloadRunner(setup).prices
    return (prices.processor.first + prices.cpu(0, 1)) * 1e3


def _gates(setup: Setup, given: Mapping[str, Any], kind: int) -> float:
    weights = token_source(setup.routing).request(0, _GATES).weights
    if weights is None:
        message = "shares of precisions need gate weights"
        raise InputError(message, hint="use the generator 'local', or a trace that has them")
    found = precision_of(weights, float(given.get("t1", 0.6)), float(given.get("t2", 0.9)))
    return float((found == kind).mean())


def _locality(setup: Setup, given: Mapping[str, Any]) -> float:
    """Return the hit rate of one cache that holds ``rho`` times the experts of a token in all layers."""
    return _rate(setup, given, float(given["rho"]))


def _knee(setup: Setup, given: Mapping[str, Any]) -> float:
    """Return how much more hits grow with rho from 1 to 2 than from 2 to 3."""
    one, two, three = (_rate(setup, given, rho) for rho in (1.0, 2.0, 3.0))
    return (two - one) / (three - two)


def _rate(setup: Setup, given: Mapping[str, Any], rho: float) -> float:
    ids = token_source(setup.routing).request(0, _LENGTH).ids
    curve = _curve(ids.tobytes(), ids.shape, setup.model.experts, str(given["cache"]))
    return curve[int(rho * ids.shape[1] * ids.shape[2] + 0.5) - 1]


@lru_cache(maxsize=16)
def _curve(ids: bytes, shape: tuple[int, ...], experts: int, cache: str) -> list[float]:
    """Return the hit rate of a cache of every size."""
    array = np.frombuffer(ids, dtype=np.int64).reshape(shape)
    window = _WINDOW if cache == "sch" else None
    accesses = Accesses.of(array, experts=experts).together()
    rates: list[float] = hit_rate_curves(accesses, cache, window).mean(axis=(0, 1)).tolist()
    return rates


OF_SETUP: Final[Mapping[str, Callable[[Setup, Mapping[str, Any]], float]]] = MappingProxyType(
    {
        "expert_load_ms": _expert_load_ms,
        "layer_load_ms": _layer_load_ms,
        "layer_compute_ms": _layer_compute_ms,
        "cpu_expert_ms": _cpu_expert_ms,
        "gate_high_share": lambda setup, given: _gates(setup, given, HIGH),
        "gate_low_share": lambda setup, given: _gates(setup, given, LOW),
        "gate_skip_share": lambda setup, given: _gates(setup, given, SKIP),
        "locality_hit_rate": _locality,
        "locality_knee": _knee,
    }
)
"""Quantities that need no run; ``given`` of a figure says the rest."""
