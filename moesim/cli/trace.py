"""``moesim trace``: look at, import, generate and record routing traces."""

from __future__ import annotations

import click

from moesim.cli.options import json_option, read_pairs, refuse, set_option
from moesim.cli.output import print_json, print_rich, table_of, text_of
from moesim.cli.progress import progress_bar
from moesim.cli.trace_caches import caches
from moesim.cli.trace_locality import locality
from moesim.errors import InputError, unknown_name

overwrite_option = click.option("--overwrite", is_flag=True, help="Replace a trace that is already there.")


@click.group()
def trace() -> None:
    """Look at, import, generate and record routing traces."""


trace.add_command(caches)
trace.add_command(locality)


@trace.command(short_help="Say what a trace holds.")
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
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2, 0, 0))
    for key, value in facts.items():
        if key != "per_layer" and value is not None:
            table.add_row(Text(key.replace("_", " "), style="bold"), Text(text_of(value)))
    print_rich(table)
    click.echo()
    print_rich(table_of(facts["per_layer"]))


@trace.command("import", short_help="Convert a recording of another tool.")
@click.argument("kind")
@click.argument("source", type=click.Path())
@click.argument("target", type=click.Path())
@set_option("An option of the importer.")
@overwrite_option
def import_(kind: str, source: str, target: str, pairs: tuple[str, ...], overwrite: bool) -> None:
    """Convert SOURCE, recorded in the layout KIND, into a trace at TARGET.

    'moesim list importers' names the layouts and their options.
    """
    from moesim.routing import import_trace

    values = read_pairs(pairs, "experts=64")
    refuse(
        values,
        "trace import",
        {"kind": "KIND", "source": "SOURCE", "target": "TARGET", "overwrite": "--overwrite"},
    )
    import_trace(kind, source, target, overwrite=overwrite, **values)
    click.echo(f"wrote {target}", err=True)


@trace.command(short_help="Write a trace as one Parquet file.")
@click.argument("path", type=click.Path())
@click.argument("target", type=click.Path())
@overwrite_option
def export(path: str, target: str, overwrite: bool) -> None:
    """Write the trace at PATH as one Parquet file TARGET, which 'trace import parquet' reads."""
    from moesim.routing import RoutingTrace, to_parquet

    to_parquet(RoutingTrace.open(path), target, overwrite=overwrite)
    click.echo(f"wrote {target}", err=True)


@trace.command(short_help="Draw a trace of expert counts.")
@click.argument("kind")
@click.argument("target", type=click.Path())
@click.option("--experts", type=click.IntRange(1, 65536), metavar="N", required=True, help="Routed experts.")
@click.option("--top-k", type=click.IntRange(1, 1024), metavar="N", required=True, help="Experts per token.")
@click.option("--layers", type=click.IntRange(1, 1000), metavar="N", default=1, help="MoE layers [1].")
@click.option(
    "--steps", type=click.IntRange(1, 1_000_000), metavar="N", default=16, help="Steps to draw [16]."
)
@click.option(
    "--tokens", type=click.IntRange(1, 100_000_000), metavar="N", default=4096, help="Tokens per step [4096]."
)
@click.option(
    "--seed", type=click.IntRange(0, 2**63 - 1), metavar="N", default=0, help="Seed of all random streams."
)
@set_option("A parameter of the generator.")
@overwrite_option
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
    overwrite: bool,
) -> None:
    """Draw expert counts from the generator KIND and store them as a trace of counts at TARGET.

    'moesim list generators' names the generators and their parameters.
    """
    import numpy as np

    from moesim.routing import CountsWriter
    from moesim.routing.generators import create_generator

    values = read_pairs(pairs, "exponent=0.8")
    names = ("experts", "top_k", "layers", "seed")
    refuse(values, "trace generate", {name: f"--{name.replace('_', '-')}" for name in names})
    source = create_generator(kind, experts=experts, top_k=top_k, layers=layers, seed=seed, **values)
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
            overwrite=overwrite,
        ) as writer,
    ):
        for step in range(steps):
            writer.append(source.load(step, sizes).per_expert)
            report(kind, step + 1, steps)
    click.echo(f"wrote {target}", err=True)


@trace.command(short_help="Train a small model and record its routing.")
@click.argument("target", type=click.Path())
@click.option(
    "--seed", type=click.IntRange(0, 2**32 - 1), metavar="N", default=0, help="Seed of weights and batches."
)
@set_option("steps, tokens, threads, balance, or architecture.NAME.")
@overwrite_option
def record(target: str, seed: int, pairs: tuple[str, ...], overwrite: bool) -> None:
    """Train a small MoE model on this Python's own sources and record its routing at TARGET.

    Needs torch (pip install 'moesim[record]'); takes minutes. The model has 6 MoE layers of 32 experts,
    top-4, unless architecture.layers, .experts, .top_k or .width say otherwise.
    """
    from moesim.routing.recorder import record as run

    values = read_pairs(pairs, "architecture.layers=2")
    refuse(values, "trace record", {"seed": "--seed", "overwrite": "--overwrite"})
    known = ("steps", "tokens", "threads", "balance", "architecture")
    for name, value in values.items():
        if name not in known:
            raise unknown_name("parameter of trace record", name, known)
        if (name == "architecture") != isinstance(value, dict):
            message = (
                f"'{name}' must be {'architecture.NAME=VALUE' if name == 'architecture' else 'one value'}"
            )
            raise InputError(message, "--set")
    with progress_bar() as report:
        run(
            target,
            seed=seed,
            overwrite=overwrite,
            progress=lambda done, total, what: report(what, done, total),
            **values,
        )
    click.echo(f"wrote {target}", err=True)
