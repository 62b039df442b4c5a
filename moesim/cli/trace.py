"""``moesim trace``: look at, import, generate and record routing traces."""

from __future__ import annotations

from typing import Any

import click

from moesim.cli.options import json_option, print_json, progress_bar
from moesim.errors import InputError


def _settings(pairs: tuple[str, ...]) -> dict[str, Any]:
    """Read repeated KEY=VALUE options as YAML values."""
    from moesim import yamlio

    values: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.strip():
            message = f"'{pair}' is not of the form KEY=VALUE"
            raise InputError(message)
        values[key.strip()] = yamlio.loads(text, file=f"--set {key}").data
    return values


set_option = click.option(
    "--set", "pairs", multiple=True, metavar="KEY=VALUE", help="A parameter. Repeatable."
)


@click.group()
def trace() -> None:
    """Look at, import, generate and record routing traces."""


@trace.command()
@click.argument("path", type=click.Path())
@json_option
@click.option("--verify/--no-verify", default=True, help="Check every checksum (default) or only shapes.")
def info(path: str, as_json: bool, verify: bool) -> None:
    """Say what the trace at PATH holds and how skewed it is."""
    from moesim.routing import RoutingTrace

    opened = RoutingTrace.open(path)
    if verify:
        opened.verify()
    facts = opened.info()
    if as_json:
        print_json(facts)
        return
    for key, value in facts.items():
        click.echo(f"{key:28} {_short(value)}")


def _short(value: object) -> str:
    """Show a value on one line."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(_short(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_short(item)}" for key, item in value.items())
    return str(value)


@trace.command("import")
@click.argument("kind")
@click.argument("source", type=click.Path())
@click.argument("target", type=click.Path())
@set_option
def import_(kind: str, source: str, target: str, pairs: tuple[str, ...]) -> None:
    """Convert SOURCE, recorded in the layout KIND, into a trace at TARGET."""
    from moesim.routing import import_trace

    import_trace(kind, source, target, **_settings(pairs))
    click.echo(f"wrote {target}", err=True)


@trace.command()
@click.argument("kind")
@click.argument("target", type=click.Path())
@click.option("--experts", type=click.IntRange(1, 65536), required=True, help="Routed experts per layer.")
@click.option("--top-k", type=click.IntRange(1, 1024), required=True, help="Experts per token.")
@click.option("--layers", type=click.IntRange(1, 1000), default=1, help="MoE layers.")
@click.option("--steps", type=click.IntRange(1, 1_000_000), default=16, help="Steps to draw.")
@click.option("--tokens", type=click.IntRange(1, 100_000_000), default=4096, help="Tokens per step.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Seed of all random streams.")
@set_option
def generate(
    kind: str,
    target: str,
    experts: int,
    top_k: int,
    layers: int,
    steps: int,
    tokens: int,
    seed: int,
    pairs: tuple[str, ...],
) -> None:
    """Draw expert counts from the generator KIND and store them as a trace of counts at TARGET."""
    import numpy as np

    from moesim.routing import CountsWriter
    from moesim.routing.generators import create_generator

    source = create_generator(
        kind, experts=experts, top_k=top_k, layers=layers, seed=seed, **_settings(pairs)
    )
    sizes = np.asarray([tokens], dtype=np.int64)
    with (
        progress_bar() as report,
        CountsWriter(
            target,
            model=f"generator {source.name}",
            experts=experts,
            top_k=top_k,
            layers=tuple(range(layers)),
            provenance=f"moesim trace generate {kind}, seed {seed}, {tokens} tokens per step",
        ) as writer,
    ):
        for step in range(steps):
            writer.append(source.load(step, sizes).per_expert)
            report(kind, step + 1, steps)
    click.echo(f"wrote {target}", err=True)


@trace.command()
@click.argument("target", type=click.Path())
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Seed of training and corpus split.")
@set_option
def record(target: str, seed: int, pairs: tuple[str, ...]) -> None:
    """Train a small MoE model on this Python's own sources and record its routing at TARGET."""
    from moesim.routing.recorder import record as run

    with progress_bar() as report:
        run(
            target,
            seed=seed,
            progress=lambda done, total, what: report(what, done, total),
            **_settings(pairs),
        )
    click.echo(f"wrote {target}", err=True)
