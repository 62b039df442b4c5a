"""The figures of a run that offloads as text: for a terminal, a report and a notebook alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from moesim.units import format_bytes, format_time

if TYPE_CHECKING:
    from moesim.results.result import Result

NONE: Final = "-"
"""Stands where a figure has no basis."""

SERVING_HEADS: Final = (
    "policy",
    "first token",
    "per token",
    "tokens/s",
    "hits",
    "load wait",
    "bytes/pass",
    "wasted",
    "J/token",
)
"""Headings of the table of several runs."""


def serving_lines(result: Result) -> list[tuple[str, str]]:
    """Return the figures of one run, name and text; none where it does not offload."""
    given = result.offload
    if given is None:
        return []
    rates = [f"{_rate(given['decode_tokens_per_s'])} tokens/s decoding"]
    if given["ttft_s"] is not None:
        rates.append(f"{_rate(given['output_tokens_per_s'])} with the prompts")
    lookups = f"{_percent(given['hit_rate'])} of lookups"
    others = [
        f"{_percent(given[key])} {word}"
        for key, word in (
            ("low_hit_share", "in low precision"),
            ("late_share", "on the way"),
            ("cpu_share", "on the CPU"),
            ("skipped_share", "skipped"),
        )
        if given[key]
    ]
    waits = f"{_percent(given['load_wait_share'])} of the time for loads"
    if given["cpu_wait_share"]:
        waits += f", {_percent(given['cpu_wait_share'])} for the CPU"
    moved = f"{format_bytes(_moved(given))} per pass"
    if given["prefetched_bytes_per_pass"]:
        moved += f", {format_bytes(given['prefetched_bytes_per_pass'])} of it prefetched"
    lines = [
        ("time to first token", _time(given["ttft_s"])),
        ("time per token", _time(given["tpot_s"])),
        ("output", ", ".join(rates)),
        ("cache hits", f"{lookups}; of all {', '.join(others)}" if others else lookups),
        ("waiting", waits),
        ("loaded", moved),
    ]
    if given["prefetch_accuracy"] is not None:
        right, timely = _percent(given["prefetch_accuracy"]), _percent(given["good_pred"])
        wasted = _percent(given["wasted_share"])
        lines.append(
            ("prefetches", f"{right} needed, {timely} needed and in time; {wasted} of their bytes wasted")
        )
    if given["energy_j_per_token"] is not None:
        lines.append(("energy", f"{_energy(given['energy_j_per_token'])} J per output token, at rated power"))
    return [(name, text) for name, text in lines if text != NONE]


def serving_rows(results: Sequence[Result]) -> list[tuple[str, ...]]:
    """Return a row of figures for each run that offloads, see ``SERVING_HEADS``."""
    rows: list[tuple[str, ...]] = []
    for result in results:
        given = result.offload
        if given is not None:
            rows.append(
                (
                    result.policy,
                    _time(given["ttft_s"]),
                    _time(given["tpot_s"]),
                    _rate(given["decode_tokens_per_s"]),
                    _percent(given["hit_rate"]),
                    _percent(given["load_wait_share"]),
                    format_bytes(_moved(given)),
                    _percent(given["wasted_share"]),
                    _energy(given["energy_j_per_token"]),
                )
            )
    return rows


def _moved(given: dict[str, Any]) -> float:
    return float(given["loaded_bytes_per_pass"] + given["prefetched_bytes_per_pass"])


def _time(seconds: float | None) -> str:
    return NONE if seconds is None else format_time(seconds)


def _rate(rate: float | None) -> str:
    return NONE if rate is None else f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def _percent(share: float | None) -> str:
    return NONE if share is None else f"{100 * share:.0f} %"


def _energy(joules: float | None) -> str:
    return NONE if joules is None else f"{joules:.3g}"
