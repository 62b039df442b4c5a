"""``moesim trace locality``: how locally a recorded model routes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from moesim.cli.options import json_option
from moesim.cli.output import print_json
from moesim.cli.progress import progress_bar
from moesim.errors import InputError

if TYPE_CHECKING:
    from moesim.routing.locality import LocalityProfile, PublishedModel


@click.command("locality", short_help="Measure how locally a trace routes.")
@click.argument("path", type=click.Path())
@click.option(
    "--windows",
    default="4, 16, 64, 256",
    metavar="LIST",
    help="Tokens per window [4, 16, 64, 256].",
)
@click.option("--layers", metavar="LIST", help="Only these layers, for example '1, 4-8' [all].")
@click.option("--task", metavar="NAME", help="Only tokens of this task [all].")
@click.option("--phase", type=click.Choice(["prefill", "decode"]), help="Only this phase [both].")
@click.option(
    "--sequences",
    type=click.IntRange(1),
    metavar="N",
    help="Only N sequences, the same ones every time [all].",
)
@click.option(
    "--length", type=click.IntRange(1), metavar="N", help="Cut sequences into N tokens [as recorded]."
)
@click.option(
    "--scope",
    type=click.Choice(["layer", "global"]),
    default="layer",
    help="A cache per layer, or one, as published (slow) [layer].",
)
@click.option("--beside", metavar="MODEL", help="Published model to set it beside [the nearest].")
@click.option("--plot", type=click.Path(), metavar="FILE", help="Draw hit rates into a .png or .svg file.")
@click.option("--per-layer", is_flag=True, help="Also list every layer.")
@json_option
def locality(
    path: str,
    windows: str,
    layers: str | None,
    task: str | None,
    phase: str | None,
    sequences: int | None,
    length: int | None,
    scope: Literal["layer", "global"],
    beside: str | None,
    plot: str | None,
    per_layer: bool,
    as_json: bool,
) -> None:
    """Measure how locally the model of the trace at PATH routes, beside published models.

    SRP says how well a fixed set of experts serves a window of tokens; hit rates are those of caches of every
    size; reuse says when experts are used again.
    """
    from moesim.routing import RoutingTrace
    from moesim.routing.locality import (
        measure_locality,
        nearest_models,
        profile_summary,
        published_model,
        published_summary,
        select_accesses,
    )

    lengths = _numbers(windows, "--windows")
    target = None if plot is None else _target(plot)
    wanted = None if beside is None else published_model(beside)
    chosen = None if layers is None else _numbers(layers, "--layers")
    opened = RoutingTrace.open(path)
    selection = select_accesses(
        opened, layers=chosen, task=task, phase=phase, sequences=sequences, length=length
    )
    with progress_bar() as report:
        profile = measure_locality(
            selection.accesses, layers=selection.layers, windows=lengths, scope=scope, report=report
        )
    near = nearest_models(profile)
    model = wanted or near[0][0]
    if target is not None:
        _draw(profile, opened.name, model, target)
    if as_json:
        facts: dict[str, Any] = {"trace": opened.name, "model": opened.model, **profile_summary(profile)}
        facts["notes"] = [*selection.notes, *_notes(profile)]
        facts["nearest"] = [{"model": one.name, "distance": away} for one, away in near]
        facts["beside"] = published_summary(model)
        facts["plot"] = plot
        print_json(facts)
        return
    from moesim.cli.locality_tables import print_locality

    print_locality(profile, opened, model, near, [*selection.notes, *_notes(profile)], per_layer)
    if plot is not None:
        click.echo(f"wrote {plot}", err=True)


def _numbers(text: str, option: str) -> list[int]:
    """Read whole numbers and ranges such as ``1, 4-8``.

    Raises:
        InputError: something else.
    """
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = (piece.strip() for piece in part.partition("-"))
        if not (first.isdecimal() and (last.isdecimal() if dash else True)):
            message = f"'{part.strip()}' is neither a whole number nor a range"
            raise InputError(message, option, hint="for example 4, 16 or 0-3")
        low, high = int(first), int(last or first)
        if not low <= high < low + 100_000:
            message = f"'{part.strip()}' is not a range of at most 100,000 numbers, from low to high"
            raise InputError(message, option)
        found.extend(range(low, high + 1))
    return found


def _target(plot: str) -> Path:
    """Refuse before the work what cannot be drawn.

    Raises:
        InputError: another kind of file, or no folder to put it in.
    """
    target = Path(plot)
    if target.suffix.lower() not in (".png", ".svg"):
        message = "a plot is a .png or .svg file"
        raise InputError(message, f"--plot {plot}")
    if target.is_dir() or not target.absolute().parent.is_dir():
        message = "is a folder" if target.is_dir() else "its folder does not exist"
        raise InputError(f"cannot draw the plot: {message}", f"--plot {plot}")
    return target


def _draw(profile: LocalityProfile, name: str, model: PublishedModel, target: Path) -> None:
    from moesim.results.plots.locality import locality_chart
    from moesim.results.plots.style import render

    kind: Literal["svg", "png"] = "svg" if target.suffix.lower() == ".svg" else "png"
    target.write_bytes(render(locality_chart(profile, name, model), kind))


def _notes(profile: LocalityProfile) -> list[str]:
    notes = []
    if profile.skipped:
        windows = ", ".join(map(str, profile.skipped))
        notes.append(f"The longest sequence has {profile.longest} tokens, too few for windows of {windows}.")
    if profile.scope == "layer":
        notes.append(
            "Rates here are of a cache per layer, published ones of one cache for all layers, which finds "
            "more where caches are small (--scope global)."
        )
    return notes
