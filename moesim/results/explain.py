"""A comparison in words: what each policy gains or loses against the baseline, and why."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from moesim.results.memory import fullest_device, holding
from moesim.results.metrics import ratio
from moesim.units import format_bytes, format_time

if TYPE_CHECKING:
    from moesim.results.comparison import Comparison
    from moesim.results.result import Result

WORTH_TELLING = 0.002
"""Changes below this share of the baseline are left out of the words; the tables have them all."""

SAID = {
    "attention": "attention",
    "all_reduce": "all-reduce",
    "dense": "dense layers",
    "gate": "gating",
    "permute": "permutation",
    "launch": "launching",
    "planning": "planning",
    "dispatch": "dispatch",
    "weight_move": "exposed weight moves",
    "experts": "expert compute",
    "expert_load": "loading experts",
    "cpu_experts": "experts on the CPU",
    "combine": "combine",
    "unpermute": "unpermutation",
    "wait": "waiting",
    "migration": "migration",
}
"""Causes as said in a sentence."""


def percent(share: float) -> str:
    """Format a share with its sign, for example ``-12.3 %``."""
    return f"{100 * share:+.1f} %"


def cause_changes(comparison: Comparison, result: Result, most: int = 11) -> list[str]:
    """Return the causes that changed, largest change first, with seconds and share of the baseline.

    Args:
        comparison: where the baseline is.
        result: the policy that is explained.
        most: most causes to name.
    """
    rows = comparison.changes
    rows = rows[rows["policy"] == result.policy]
    changes = dict(zip(rows["cause"], rows["change_s"], strict=True))
    return cause_words(changes, comparison.baseline.latency_s["mean"], most)


def cause_words(changes: Mapping[str, float], latency_s: float, most: int = 11) -> list[str]:
    """Return the changes that are worth telling, in the order given.

    Args:
        changes: seconds that each cause gained or lost, by cause.
        latency_s: what they are a share of (s).
        most: most causes to name.
    """
    shares = {cause: change / latency_s if latency_s else 0.0 for cause, change in changes.items()}
    return [
        f"{SAID[cause]} {'grew' if change > 0 else 'shrank'} by {format_time(abs(change))}"
        f" ({percent(shares[cause])})"
        for cause, change in changes.items()
        if abs(shares[cause]) >= WORTH_TELLING
    ][:most]


def owner_changes(baseline: Result, result: Result, most: int = 4) -> list[str]:
    """Return which owners' bytes differ on the two fullest devices, largest change first.

    Args:
        baseline: the result that is measured against.
        result: the policy that is explained.
        most: most owners to name.
    """
    theirs, mine = (
        holding(one.memory, device) if (device := fullest_device(one.memory)) is not None else {}
        for one in (baseline, result)
    )
    changes = {owner: mine.get(owner, 0) - theirs.get(owner, 0) for owner in (*theirs, *mine)}
    worth = WORTH_TELLING * max(baseline.peak_memory_bytes, 1.0)
    told = sorted((item for item in changes.items() if abs(item[1]) >= worth), key=lambda item: -abs(item[1]))
    return [
        f"{owner} {'grew' if change > 0 else 'shrank'} by {format_bytes(abs(change))}"
        for owner, change in told
    ][:most]


def out_of_memory_line(entries: list[dict[str, Any]]) -> str:
    """Say which device ran out of memory, when and holding what; others are counted.

    Args:
        entries: the list under ``out_of_memory`` of a result, not empty.
    """
    worst = max(entries, key=lambda entry: entry["needed_bytes"] - entry["capacity_bytes"])
    when = worst["when"]
    place = f"in step {when['step']}, layer {when['layer']}, stage {when['stage']}"
    held = ", ".join(f"{owner} {format_bytes(size)}" for owner, size in list(worst["holding"].items())[:4])
    also = len(entries) - 1
    more = f"; {also} more device{'s run' if also > 1 else ' runs'} out" if also else ""
    return (
        f"device {worst['device']} needs {format_bytes(worst['needed_bytes'])} of "
        f"{format_bytes(worst['capacity_bytes'])} {place}, holding {held}{more}"
    )


def _speed_line(comparison: Comparison, result: Result) -> str:
    speedup, base = comparison.speedup(result), comparison.baseline
    times = f"{format_time(result.latency_s['mean'])} against {format_time(base.latency_s['mean'])} per step"
    if math.isclose(speedup, 1.0, rel_tol=WORTH_TELLING):
        return f"{result.policy} is as fast as {base.policy}: {times}"
    if speedup > 1:
        return f"{result.policy} is {speedup:.2f}x as fast as {base.policy}: {times}"
    slower = f"{1 / speedup:.2f}x" if speedup else "infinitely many times"
    return f"{result.policy} is {slower} slower than {base.policy}: {times}"


def output_line(result: Result) -> str | None:
    """Say how far the policy changes what the model gives; None for one that does not."""
    if result.exact:
        return None
    changed, dropped = result.changed_tokens, result.dropped_copies
    if not changed:
        return "output: the policy may change it, but nothing was dropped or moved here"
    asked = int(result.steps["copies"].sum()) + dropped
    layers = int(result.layers.loc[result.layers["imbalance"].notna(), "layer"].nunique())
    share = ratio(changed, float(result.steps["tokens"].sum()) * layers)
    return (
        f"output: not the model's own; {100 * share:.1f} % of the tokens of a MoE layer are changed, "
        f"{dropped:,} of {asked:,} copies are dropped"
    )


def _memory_line(comparison: Comparison, result: Result) -> str:
    base = comparison.baseline
    factor = comparison.memory_ratio(result)
    peaks = f"{format_bytes(result.peak_memory_bytes)} against {format_bytes(base.peak_memory_bytes)}"
    owners = owner_changes(base, result)
    if not owners and math.isclose(factor, 1.0, rel_tol=WORTH_TELLING):
        return f"memory: the same peak, {format_bytes(result.peak_memory_bytes)}"
    why = f"; on the fullest device {', '.join(owners)}" if owners else ""
    return f"memory: peak {peaks} ({factor:.2f}x){why}"


def explain_one(comparison: Comparison, result: Result) -> list[str]:
    """Return the lines about one policy: speed, causes, memory, running out."""
    lines = [_speed_line(comparison, result)]
    changes = cause_changes(comparison, result)
    lines.append(f"  time: {', '.join(changes)}" if changes else "  time: no cause changes noticeably")
    lines.append(f"  {_memory_line(comparison, result)}")
    if result.out_of_memory:
        lines.append(f"  out of memory: {out_of_memory_line(result.out_of_memory)}")
    if told := output_line(result):
        lines.append(f"  {told}")
    return lines


def explain(comparison: Comparison) -> list[str]:
    """Return lines of plain text for the baseline and then each other policy."""
    base = comparison.baseline
    lines = [
        f"{base.policy} is the baseline: {format_time(base.latency_s['mean'])} per step, "
        f"{100 * base.bound_fraction:.0f} % of that is the lower bound"
    ]
    if base.out_of_memory:
        lines.append(f"  out of memory: {out_of_memory_line(base.out_of_memory)}")
    if told := output_line(base):
        lines.append(f"  {told}")
    for result in comparison.others:
        lines.extend(explain_one(comparison, result))
    return lines
