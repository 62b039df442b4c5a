"""``moesim list`` and ``moesim schema``: what there is to choose from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moesim.cli.options import json_option, print_json, print_rich
from moesim.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable


@click.group("list")
def list_group() -> None:
    """List models, hardware, policies, scenarios, generators or papers."""


def _show(title: str, rows: list[dict[str, Any]], as_json: bool) -> None:
    """Print rows as JSON or as a table."""
    if as_json:
        print_json({title: rows})
        return
    from rich.table import Table

    table = Table(title=f"{len(rows)} {title}", title_justify="left")
    for column in rows[0] if rows else ():
        table.add_column(column.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    print_rich(table)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _listing(name: str, help_text: str) -> Callable[[Callable[[], list[dict[str, Any]]]], click.Command]:
    """Make a subcommand of ``list`` out of a function that returns rows."""

    def make(function: Callable[[], list[dict[str, Any]]]) -> click.Command:
        def command(as_json: bool) -> None:
            _show(name, function(), as_json)

        command.__doc__ = help_text
        return list_group.command(name)(json_option(command))

    return make


@_listing("models", "List the models of the catalogue.")
def _models() -> list[dict[str, Any]]:
    from moesim.model import load_model, model_names

    rows = []
    for name in model_names():
        model = load_model(name)
        rows.append(
            {
                "name": name,
                "parameters_b": model.total_params / 1e9,
                "layers": len(model.layers),
                "moe_layers": len(model.moe_layers),
                "experts": model.experts,
                "top_k": model.top_k,
                "shared": len(model.moe_layers[0].shared),
                "hidden": model.hidden,
                "weight_dtype": model.weight_dtype,
                "source": model.source,
            }
        )
    return rows


@_listing("hardware", "List the clusters and devices of the catalogue.")
def _hardware() -> list[dict[str, Any]]:
    from moesim.hardware import cluster_names, device_names, load_cluster, load_device
    from moesim.units import format_bytes, format_flops, format_rate

    rows: list[dict[str, Any]] = []
    for name in cluster_names():
        cluster = load_cluster(name)
        device = cluster.devices[0]
        about = f"{cluster.size} x {device.name} on {cluster.node_count} node(s)"
        rows.append(
            {"kind": "cluster", "name": name, "what": about, "memory": format_bytes(device.memory.capacity)}
        )
    for name in device_names():
        device = load_device(name)
        best = max(device.peak_flops, key=lambda kind: (kind == "bf16", kind == "fp16"))
        rate = f"{format_flops(device.peak_flops[best])} {best}, {format_rate(device.memory.bandwidth)}"
        rows.append(
            {"kind": "device", "name": name, "what": rate, "memory": format_bytes(device.memory.capacity)}
        )
    return rows


@_listing("policies", "List the policies: presets, and the placement and dispatch kinds they are made of.")
def _policies() -> list[dict[str, Any]]:
    from moesim.policies import describe, policy_presets

    rows = [
        {
            "kind": "preset",
            "name": name,
            "what": f"{p['placement']} placement, {p['dispatch']} dispatch",
        }
        for name, p in policy_presets().items()
    ]
    return rows + [{"kind": row.kind, "name": row.name, "what": row.summary} for row in describe()]


@_listing("generators", "List the routing generators.")
def _generators() -> list[dict[str, Any]]:
    from moesim.routing.generators import generator_kinds

    return [{"name": kind} for kind in generator_kinds()]


@_listing("papers", "List the papers whose figures `moesim reproduce` predicts.")
def _papers() -> list[dict[str, Any]]:
    from moesim.papers import load_paper, paper_names

    papers = [load_paper(name) for name in paper_names()]
    return [
        {
            "name": p.paper,
            "title": p.title,
            "points": sum(len(f.points) for f in p.figures),
            "source": p.source,
        }
        for p in papers
    ]


@list_group.command("scenarios")
@click.argument("directory", type=click.Path(), required=False)
@json_option
def _scenarios(directory: str | None, as_json: bool) -> None:
    """List the scenario files of DIRECTORY (by default ./scenarios, or those beside the package)."""
    from moesim.scenario import load_scenario

    beside = Path(__file__).resolve().parents[2] / "scenarios"
    folder = (
        Path(directory) if directory else next((p for p in (Path("scenarios"), beside) if p.is_dir()), None)
    )
    if folder is None or not folder.is_dir():
        message = f"there is no directory '{folder or 'scenarios'}'"
        raise InputError(message, hint="name the directory that holds your scenarios")
    rows = []
    for path in sorted(folder.glob("*.yaml")):
        try:
            scenario = load_scenario(str(path))
            rows.append({"file": path.name, "name": scenario.name, "description": scenario.description or ""})
        except InputError as error:
            rows.append({"file": path.name, "name": "(cannot be read)", "description": str(error)})
    _show("scenarios", rows, as_json)


@click.command()
def schema() -> None:
    """Print the JSON Schema of scenarios, for editors."""
    from moesim.scenario import json_schema

    print_json(json_schema())
