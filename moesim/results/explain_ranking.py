"""A ranking in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moesim.results.explain import out_of_memory_line, output_line
from moesim.results.statistics import LEVEL, METHOD, Estimate
from moesim.units import format_bytes, format_time

if TYPE_CHECKING:
    from moesim.results.ranking import Ranking, Standing


_CLOSE = 0.1
"""Ratios this near to 1 are told with one more digit."""


def times(estimate: Estimate) -> str:
    """Format a ratio with its interval, for example ``1.25x [1.22, 1.28]``."""
    digits = 3 if abs(estimate.mean - 1) < _CLOSE else 2
    text = f"{estimate.mean:.{digits}f}x"
    if estimate.low is None or estimate.high is None:
        return text
    return f"{text} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"


def seconds(estimate: Estimate) -> str:
    """Format a time with half the width of its interval, for example ``1.2 ms +- 0.3 %``."""
    if estimate.low is None or estimate.high is None:
        return format_time(estimate.mean)
    share = (estimate.high - estimate.low) / 2 / estimate.mean if estimate.mean else 0.0
    return f"{format_time(estimate.mean)} +- {100 * share:.1f} %"


def what_intervals_are(ranking: Ranking) -> str:
    """Say over what the intervals are, and by which method."""
    count = len(ranking.runs)
    runs = f"{count} runs" if count > 1 else f"{len(ranking.comparisons[0].baseline.steps)} steps"
    text = f"{LEVEL:.0%} intervals over {ranking.over} ({runs}): {METHOD}"
    if len({(run.scenario, run.trace) for run in ranking.runs}) < count and not ranking.seeds_matter:
        text += "; seeds change nothing here"
    if ranking.standings[0].latency.interval is None:
        text = "no intervals: a single step says nothing about its spread"
    return text


def explain_standing(ranking: Ranking, one: Standing) -> list[str]:
    """Return the lines about one policy: place, causes, memory."""
    place = f"{one.rank}. {one.name}: {seconds(one.latency)} per step"
    above = 100 * (one.latency.mean / one.bound_s - 1) if one.bound_s else 0.0
    place += f", {above:.0f} % above the lower bound"
    if one.name == ranking.baseline:
        lines = [f"{place}; the baseline"]
    else:
        lines = [f"{place}; {times(one.speedup)} the speed of {ranking.baseline}"]
        lines.append(f"  time: {', '.join(one.reason) or 'no cause changes noticeably'}")
        change = format_bytes(abs(one.memory_cost_bytes))
        more = "the same peak" if not one.memory_cost_bytes else (
            f"{change} {'more' if one.memory_cost_bytes > 0 else 'less'} ({one.memory_ratio:.2f}x)"
        )  # fmt: skip
        lines.append(f"  memory: {more}, {format_bytes(one.peak_memory_bytes)}")
    output = output_line(one.results[0])
    if output is not None:
        lines.append(f"  {output}")
    if one.tied:
        lines.append("  cannot be told apart from the policy of the rank above")
    for result in one.results:
        if result.out_of_memory:
            lines.append(f"  out of memory: {out_of_memory_line(result.out_of_memory)}")
            break
    return lines


def explain_ranking(ranking: Ranking) -> list[str]:
    """Return lines of plain text: what intervals are, every policy, best first, and which could not run."""
    lines = [what_intervals_are(ranking)]
    for one in ranking.ranked:
        lines += explain_standing(ranking, one)
    lines += [f"{one.name} does not fit: {one.reason}" for one in ranking.unfit]
    return lines
