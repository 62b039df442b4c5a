"""``moesim trace caches``: cache policies replayed on a recorded trace."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

import click

from moesim.cli.options import json_option
from moesim.cli.output import print_json, print_rich
from moesim.cli.progress import stoppable_progress
from moesim.errors import InputError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from moesim.policies.cache.base import CachePolicy
    from moesim.policies.cache.replay import CacheReplay
    from moesim.routing import RoutingTrace


@dataclass(frozen=True)
class _Row:
    policy: str
    hit_rate: float | None = None
    lowest_layer: int | None = None
    lowest_hit_rate: float | None = None
    highest_layer: int | None = None
    highest_hit_rate: float | None = None
    misses_per_token: float | None = None
    skipped_per_token: float | None = None
    loads_per_token: float | None = None
    low_precision_loads_per_token: float | None = None
    bytes_per_token: float | None = None
    below_belady: float | None = None
    reason: str | None = None


@click.command("caches", short_help="Replay a trace through caches of experts.")
@click.argument("path", type=click.Path())
@click.option(
    "--policies",
    default="lru, lfu, mrs, belady",
    metavar="LIST",
    help="Cache policies, for example 'lru, mrs(alpha=0.3)' [lru, lfu, mrs, belady].",
)
@click.option("--capacity", type=click.IntRange(1), metavar="N", help="Experts per cache.")
@click.option(
    "--ratio",
    type=click.FloatRange(0, 1, min_open=True),
    metavar="X",
    help="Instead: share of all experts that is cached.",
)
@click.option(
    "--scope",
    type=click.Choice(["layer", "global"]),
    default="layer",
    help="A cache per layer, or one [layer].",
)
@click.option("--model", metavar="NAME", help="Catalogue model, for bytes over the link.")
@click.option(
    "--profile",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.1,
    metavar="X",
    help="Leading share of tokens that is profiled, not replayed [0.1].",
)
@json_option
def caches(
    path: str,
    policies: str,
    capacity: int | None,
    ratio: float | None,
    scope: Literal["layer", "global"],
    model: str | None,
    profile: float,
    as_json: bool,
) -> None:
    """Replay the tokens of the trace at PATH through caches of experts, and compare hit rates.

    Each policy sees the same tokens and begins with an empty cache. Policies that cannot run are listed
    with the reason. Time is not simulated. Ctrl-C shows the policies that are done.
    """
    from moesim.model import load_model
    from moesim.policies.cache.replay import replay
    from moesim.routing import RoutingTrace

    opened = RoutingTrace.open(path)
    ids = opened.logical_ids(slice(None))
    size = _capacity(opened, capacity, ratio, scope)
    chosen = _policies(policies)
    expert_bytes = None if model is None else load_model(model).expert_bytes
    first = int(len(ids) * profile)
    weights = opened.gate_weights(slice(first, None))
    sequence = None if opened.sequence is None else opened.sequence[first:]
    done: dict[str, CacheReplay] = {}
    reasons: dict[str, str] = {}
    interrupted = False
    try:
        with stoppable_progress() as report:
            for number, (text, policy) in enumerate(chosen.items(), 1):
                try:
                    done[text] = replay(
                        policy, ids[first:], opened.experts, size, scope, weights, sequence, ids[:first]
                    )
                except InputError as error:
                    reasons[text] = f"{error.message} ({error.hint})" if error.hint else error.message
                report("cache policies", number, len(chosen))
    except KeyboardInterrupt:
        if not done:
            raise
        interrupted = len(done) + len(reasons) < len(chosen)
    chosen = {text: policy for text, policy in chosen.items() if text in done or text in reasons}
    bound = next((d.hit_rate for t, d in done.items() if chosen[t].oracle), None)
    rows = [
        _row(t, chosen[t], done[t], opened, expert_bytes, bound) if t in done else _Row(t, reason=reasons[t])
        for t in chosen
    ]
    if as_json:
        facts = {"trace": opened.name, "tokens": len(ids) - first, "profiled_tokens": first, "scope": scope}
        print_json({**facts, "capacity": size, "policies": [asdict(row) for row in rows]})
    else:
        print_rich(_table(rows))
    if interrupted:
        click.echo("moesim: interrupted; the policies that were done are shown", err=True)
        click.get_current_context().exit(130)


def _capacity(trace: RoutingTrace, capacity: int | None, ratio: float | None, scope: str) -> int:
    """Return the experts per cache, checked against top-k."""
    if (capacity is None) == (ratio is None):
        message = "say how much is cached with either --capacity or --ratio"
        raise InputError(message, hint="for example --ratio 0.25")
    everything = trace.experts * (1 if scope == "layer" else len(trace.layers))
    size = capacity if capacity is not None else int(everything * (ratio or 0) + 1e-9)
    if size < trace.top_k:
        message = f"a cache of {size} experts is smaller than top-{trace.top_k}: a token would not fit"
        raise InputError(message, hint=f"the smallest cache holds {trace.top_k}")
    return size


def _policies(text: str) -> dict[str, CachePolicy]:
    from moesim.policies.registry import create_cache
    from moesim.scenario.policy_text import read_policies

    found: dict[str, CachePolicy] = {}
    for written in read_policies(text):
        if len(written.parts) != 1:
            message = f"'{written.text}': a cache has one policy, no '+'"
            raise InputError(message, "--policies", hint="put a comma between policies")
        part = written.parts[0]
        found[written.text] = create_cache(part.name, part.parameters)
    if not found:
        message = "no policy given"
        raise InputError(message, "--policies", hint="for example --policies 'lru, belady'")
    return found


def _row(
    text: str,
    policy: CachePolicy,
    done: CacheReplay,
    trace: RoutingTrace,
    expert_bytes: int | None,
    bound: float | None,
) -> _Row:
    rates = done.hits / done.accesses.clip(1)
    lowest, highest = int(rates.argmin()), int(rates.argmax())
    tokens = max(1.0, float(done.accesses[0]) / trace.top_k)
    loads, low = float(done.loads.sum()), float(done.low_loads.sum())
    mix = policy.precisions()
    share = 1.0 if mix is None else mix.low_size
    return _Row(
        text,
        done.hit_rate,
        trace.layers[lowest],
        float(rates[lowest]),
        trace.layers[highest],
        float(rates[highest]),
        float((done.accesses - done.hits).sum()) / tokens,
        float(done.skipped.sum()) / tokens,
        loads / tokens,
        low / tokens,
        None if expert_bytes is None else (loads + low * share) * expert_bytes / tokens,
        None if bound is None else bound - done.hit_rate,
    )


def _table(rows: list[_Row]) -> RenderableType:
    from rich.table import Table

    from moesim.units import format_bytes

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("policy")
    for name in ("hits", "worst layer", "best layer", "misses/token", "bytes/token", "below belady"):
        table.add_column(name, justify="right")
    for row in rows:
        if row.hit_rate is None:
            table.add_row(row.policy, f"not run: {row.reason}")
            continue
        table.add_row(
            row.policy,
            f"{row.hit_rate:.1%}",
            f"{row.lowest_hit_rate:.1%} ({row.lowest_layer})",
            f"{row.highest_hit_rate:.1%} ({row.highest_layer})",
            f"{row.misses_per_token:.1f}",
            "" if row.bytes_per_token is None else format_bytes(row.bytes_per_token),
            "" if row.below_belady is None else f"{row.below_belady * 100:.1f} points",
        )
    return table
