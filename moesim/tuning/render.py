"""A search as rich renderables for a terminal of 100 columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from moesim.units import format_bytes, format_time

if TYPE_CHECKING:
    from moesim.tuning.outcome import Outcome
    from moesim.tuning.trial import Trial

_MOST = 12
"""Rows of the front that are printed; files have all."""


def render_outcome(outcome: Outcome) -> Group:
    """Return a search for printing: best settings, what each parameter matters, the front."""
    best, limit = outcome.best, outcome.limit
    about = f"  {len(outcome.trials)} trials of {outcome.policy.name}, seed {outcome.seed}"
    if limit is not None:
        about += f", at most {format_bytes(limit)} per device"
    parts: list[RenderableType] = [Text.assemble((outcome.scenario.name, "bold"), about), Text()]
    if best is None:
        parts.append(Text("no settings ran within the memory limit", style="bold red"))
        return Group(*parts)
    table = _table("", "own settings", "best settings", "searched")
    importance = {one.parameter: one for one in outcome.sensitivity}
    for one in outcome.space.dimensions:
        table.add_row(
            one.key, shown(one.default), Text(shown(best.settings[one.key]), style="bold"), one.text
        )
    first = outcome.default.measured
    table.add_row("latency per step", _time(outcome.default), Text(_time(best), style="bold"), "")
    table.add_row("peak memory", _memory(outcome.default), _memory(best), "")
    parts += [table, Text()]
    if first.failure is not None:
        parts.append(Text(f"its own settings cannot run: {first.failure}"))
    elif outcome.speedup is not None:
        note = "" if outcome.default.feasible else ", which break the memory limit"
        parts.append(Text(f"{outcome.speedup:.3f}x as fast as with its own settings{note}", style="bold"))
    parts += [Text(), _sensitivity(outcome, importance), Text()]
    parts += [Text("latency against memory: no trial beats these in both"), _front(outcome)]
    changed = best.measured.changed_tokens
    if changed:
        note = (
            f"the best settings change the model's output for {changed:,} tokens, over steps and MoE layers"
        )
        parts += [Text(), Text(note, style="bold red")]
    beyond = sum(not trial.feasible for trial in outcome.trials)
    if beyond:
        parts += [Text(), Text(f"{beyond} trials broke the memory limit or could not run", style="dim")]
    return Group(*parts)


def _table(*heads: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for place, head in enumerate(heads):
        table.add_column(head, justify="left" if place in (0, 3) else "right", overflow="fold")
    return table


def _sensitivity(outcome: Outcome, importance: dict[str, Any]) -> Table:
    table = _table("what matters", "importance", "worst over best", "best about")
    for key, one in importance.items():
        share = "-" if one.importance is None else f"{100 * one.importance:.0f} %"
        effect = "-" if one.effect is None else f"{100 * one.effect:+.1f} %"
        table.add_row(key, share, effect, "-" if one.effect is None else shown(one.best))
    return table


def _front(outcome: Outcome) -> Table:
    keys = [one.key for one in outcome.space.dimensions]
    table = _table("latency", "peak memory", *(key.partition(".")[2] for key in keys))
    for column in table.columns:
        column.justify = "right"
    for trial in outcome.pareto[:_MOST]:
        table.add_row(_time(trial), _memory(trial), *(shown(trial.settings[key]) for key in keys))
    if len(outcome.pareto) > _MOST:
        table.add_row(f"and {len(outcome.pareto) - _MOST} more")
    return table


def _time(trial: Trial) -> str:
    return "-" if trial.measured.latency_s is None else format_time(trial.measured.latency_s)


def _memory(trial: Trial) -> str:
    peak = trial.measured.peak_memory_bytes
    return "-" if peak is None else format_bytes(peak)


def shown(value: Any) -> str:
    """Show a setting on one line."""
    if value is None:
        return "by itself"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
