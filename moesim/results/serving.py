"""Figures of runs that offload: what a request waits for, and what caches, links and predictions did."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from moesim.results.result import Result


def offload_figures(result: Result) -> dict[str, Any] | None:
    """Return the figures of a run that offloads, plain data; None for other runs.

    Returns:
        ``ttft_s`` (mean time of a prompt's pass, which gives the first token), ``tpot_s`` (mean time of a
        decoded token), ``decode_tokens_per_s``, ``output_tokens_per_s`` (all output tokens over all time),
        ``hit_rate``, ``low_hit_share``, ``late_share``, ``cpu_share`` and ``skipped_share`` (of lookups),
        ``load_wait_share`` and ``cpu_wait_share`` (of time), ``loaded_bytes_per_pass``,
        ``prefetched_bytes_per_pass``, ``wasted_share`` (of prefetched bytes), ``prefetch_accuracy``
        (prefetched experts that were needed) and ``good_pred`` (needed and there in time; ProMoE's
        measure, arXiv 2410.22134), ``energy_j_per_token`` (at rated power). A figure without a basis is None.
    """
    passes = result.tables["iterations"]
    if passes.empty:
        return None
    seconds = result.steps["latency_s"].to_numpy()
    decode = (passes["phase"] == "decode").to_numpy()
    total = passes.drop(columns=["phase"]).sum()
    sequences = float(passes["sequences"].iloc[0])
    output = float(passes["sequences"].sum())
    tpot = float(seconds[decode].mean()) if decode.any() else None
    prefetches = float(total["prefetches"])
    energy = float(total["energy_j"])
    return {
        "ttft_s": float(seconds[~decode].mean()) if not decode.all() else None,
        "tpot_s": tpot,
        "decode_tokens_per_s": None if tpot is None else sequences / tpot,
        "output_tokens_per_s": output / float(seconds.sum()),
        "hit_rate": _share(total, "hits"),
        "low_hit_share": _share(total, "low_hits"),
        "late_share": _share(total, "late"),
        "cpu_share": _share(total, "cpu"),
        "skipped_share": _share(total, "skipped"),
        "load_wait_share": result.breakdown_s["expert_load"] / result.latency_s["mean"],
        "cpu_wait_share": result.breakdown_s["cpu_experts"] / result.latency_s["mean"],
        "loaded_bytes_per_pass": float(total["loaded_bytes"]) / len(passes),
        "prefetched_bytes_per_pass": float(total["prefetched_bytes"]) / len(passes),
        "wasted_share": _over(float(total["wasted_bytes"]), float(total["prefetched_bytes"])),
        "prefetch_accuracy": _over(float(total["used"]), prefetches),
        "good_pred": _over(float(total["in_time"]), prefetches),
        "energy_j_per_token": energy / output if energy > 0 else None,
    }


def _share(total: pd.Series[Any], name: str) -> float | None:
    return _over(float(total[name]), float(total["accesses"]))


def _over(part: float, whole: float) -> float | None:
    return part / whole if whole else None
