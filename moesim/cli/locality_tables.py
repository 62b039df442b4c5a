"""Tables of ``moesim trace locality``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from moesim.cli.output import print_rich

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from rich.table import Table

    from moesim.routing import RoutingTrace
    from moesim.routing.locality import Distribution, Knee, LocalityProfile, PublishedModel


def print_locality(
    profile: LocalityProfile,
    trace: RoutingTrace,
    model: PublishedModel,
    near: Sequence[tuple[PublishedModel, float]],
    notes: Sequence[str],
    per_layer: bool,
) -> None:
    """Print a profile beside a published model."""
    from rich.text import Text

    parts = f"{profile.tokens:,} tokens in {profile.sequences:,} sequences, {len(profile.layers)} layers"
    click.echo(f"{trace.name}  {parts}, top-{profile.top_k} of {profile.experts} experts\n")
    _head("routing consistency, beside", model)
    print_rich(_consistency(profile, model))
    _print_rates(profile, model)
    click.echo("\nreuse, popularity (mean and range over layers)")
    print_rich(_reuse(profile))
    if per_layer:
        click.echo()
        print_rich(_layers(profile))
    click.echo()
    named = ", ".join(f"{one.name} ({100 * away:.1f} points)" for one, away in near)
    print_rich(Text(f"nearest published: {named}"))
    for note in notes:
        print_rich(Text(note))


def _head(text: str, model: PublishedModel) -> None:
    click.echo(f"{text} {model.name} (top-{model.top_k} of {model.experts}) as published")


def _new(*heads: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for place, head in enumerate(heads):
        table.add_column(head, justify="left" if place == 0 else "right", no_wrap=True)
    return table


def _consistency(profile: LocalityProfile, model: PublishedModel) -> Table:
    table = _new("window", "SRP", "layers", "rho_hat", "distinct", "layers", "published SRP", "rho_hat")
    for window, found in profile.consistency.items():
        table.add_row(
            f"{window} tokens",
            _share(float(found.model.srp)),
            _span(found.layers.srp, "{:.1%}"),
            _plain(float(found.model.rho_hat), "{:.2f}"),
            _plain(float(found.distinct.mean()), "{:.1f}"),
            _span(found.distinct, "{:.1f}"),
            _share(model.srp_at(window)),
            _plain(model.rho_hat_at(window), "{:.2f}"),
        )
    return table


def _print_rates(profile: LocalityProfile, model: PublishedModel) -> None:
    from rich.text import Text

    from moesim.routing.locality import RATIOS

    click.echo("\nhit rates (%) by cache ratio: cached experts over those that a token uses")
    heads = ("cache", *(f"{ratio:g}" for ratio in RATIOS), "knee")
    own, said = _new(*heads), _new(*heads)
    said.show_header = False
    for table in (own, said):
        for column in table.columns:
            column.min_width = 4
        table.columns[0].min_width, table.columns[-1].min_width = 7, 9
    for policy in profile.curves:
        own.add_row(_policy(policy), *_percent(profile.rates(policy).tolist()), _knee(profile.knee(policy)))
        curve, knee = model.curve(policy), model.knee(policy)
        if knee is not None:
            said.add_row(_policy(policy), *_percent([curve.get(ratio) for ratio in RATIOS]), _knee(knee))
    print_rich(own)
    print_rich(Text(f"{model.name}, published:"))
    print_rich(said)
    words = (
        "SCH m evicts what the next m tokens use least. Beyond the knee more cache helps less; in brackets,",
        "its points above a straight line (SCH 16: 30 or more where the paper sees a clear knee).",
    )
    print_rich(Text(" ".join(words)))


def _percent(rates: Sequence[float | None]) -> list[str]:
    return [_plain(rate, "{:.1f}", 100) for rate in rates]


def _knee(knee: Knee) -> str:
    return f"{knee.ratio:.2f} ({100 * knee.height:.0f})"


def _reuse(profile: LocalityProfile) -> Table:
    from rich.table import Table

    again, used = profile.reuse, profile.popularity
    table = Table.grid(padding=(0, 2, 0, 0))
    random = f"at random {again.adjacent_random:.1%}"
    popular = f"by popularity alone {_share(float(again.adjacent_independent.mean()))}"
    rows = [
        ("shared with the token before", _both(again.adjacent, "{:.1%}"), f"{random}, {popular}"),
        ("tokens to the next use", _plain(again.tokens.mean(), "{:.1f}"), _quantiles(again.tokens)),
        ("other experts in between", _plain(again.distinct.mean(), "{:.1f}"), _quantiles(again.distinct)),
        ("variation between experts (CV)", _both(used.cv, "{:.2f}"), ""),
        ("copies of the top quarter", _both(used.top_quarter, "{:.1%}"), ""),
    ]
    for row in rows:
        table.add_row(*row)
    return table


def _layers(profile: LocalityProfile) -> Table:
    """Lay out every layer; the first column of a quantity names it, the others its windows."""
    again, used, windows = profile.reuse, profile.popularity, profile.consistency
    heads = ["layer"]
    for name in ("SRP", "distinct"):
        heads += [f"{name} {window}" if place == 0 else f"{window}" for place, window in enumerate(windows)]
    table = _new(*heads, "shared", "tokens", "others", "CV", "top 1/4")
    for row, layer in enumerate(profile.layers):
        table.add_row(
            str(layer),
            *(f"{100 * found.layers.srp[row]:.1f}" for found in windows.values()),
            *(f"{found.distinct[row]:.1f}" for found in windows.values()),
            _plain(float(again.adjacent[row]), "{:.1f}", 100),
            _plain(float(again.tokens.layer_means()[row]), "{:.1f}"),
            _plain(float(again.distinct.layer_means()[row]), "{:.1f}"),
            f"{used.cv[row]:.2f}",
            f"{100 * used.top_quarter[row]:.1f}",
        )
    return table


def _policy(policy: str) -> str:
    if policy.startswith("sch"):
        return f"SCH {policy[3:]}"
    return "Belady" if policy == "belady" else policy.upper()


def _quantiles(found: Distribution) -> str:
    said = [f"{name} {_plain(found.quantile(share), '{:.0f}')}" for name, share in _QUANTILES]
    return ", ".join(said)


_QUANTILES = (("half within", 0.5), ("90 %", 0.9), ("99 %", 0.99))


def _both(values: npt.NDArray[np.float64], form: str) -> str:
    return f"{_plain(float(values.mean()), form)} ({_span(values, form)})"


def _span(values: npt.NDArray[np.float64], form: str) -> str:
    low, high = (_plain(float(value), form) for value in (values.min(), values.max()))
    return low if low == high else f"{low}-{high}"


def _share(value: float | None) -> str:
    return _plain(value, "{:.1%}")


def _plain(value: float | None, form: str, factor: float = 1.0) -> str:
    return "-" if value is None or not math.isfinite(value) else form.format(value * factor)
