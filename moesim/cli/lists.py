"""``moesim list`` and ``moesim schema``: what there is to choose from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moesim.cli.options import json_option
from moesim.cli.output import print_json, print_rows
from moesim.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Rows = list[dict[str, Any]]


@click.group("list", short_help="List what there is to choose from.")
def list_group() -> None:
    """List models, hardware, links, policies, scenarios, generators, importers or papers."""


def _listing(name: str, what: str, hide: Sequence[str] = ()) -> Callable[[Callable[[], Rows]], click.Command]:
    """Make a subcommand of ``list`` out of a function that returns rows."""

    def make(function: Callable[[], Rows]) -> click.Command:
        def command(as_json: bool) -> None:
            print_rows(name, function(), as_json, hide)

        command.__doc__ = f"List {what}."
        return list_group.command(name)(json_option(command))

    return make


@_listing("models", "the models of the catalogue", hide=("source", "hidden", "shared"))
def _models() -> Rows:
    from moesim.model import load_model, model_names

    rows = []
    for name in model_names():
        model = load_model(name)
        rows.append(
            {
                "name": name,
                "total_b": model.total_params / 1e9,
                "active_b": model.active_params("with_embeddings") / 1e9,
                "layers": len(model.layers),
                "moe_layers": len(model.moe_layers),
                "experts": model.experts,
                "top_k": model.top_k,
                "shared": len(model.moe_layers[0].shared),
                "hidden": model.hidden,
                "dtype": model.weight_dtype,
                "source": model.source,
            }
        )
    return rows


@_listing("hardware", "the clusters and devices of the catalogue")
def _hardware() -> Rows:
    from moesim.hardware import cluster_names, device_names, load_cluster, load_device
    from moesim.units import format_bytes, format_flops, format_rate

    rows: Rows = []
    for name in cluster_names():
        cluster = load_cluster(name)
        device = cluster.devices[0]
        nodes = f"{cluster.node_count} node{'s' if cluster.node_count > 1 else ''}"
        about = f"{cluster.size} x {device.name}, {nodes}"
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


@_listing(
    "links", "the host and storage links of the catalogue", hide=("sources", "unverified", "seen", "notes")
)
def _links() -> Rows:
    from moesim.hardware import link_names, load_link
    from moesim.units import format_rate, format_time

    return [
        {
            "name": name,
            "kind": (link := load_link(name)).kind,
            "nominal": format_rate(link.nominal),
            "load": format_rate(link.load),
            "store": format_rate(link.store),
            "both": "-" if link.both is None else format_rate(link.both),
            "latency": format_time(link.latency_s),
            "start": format_time(link.start_s),
            "confidence": link.confidence,
            "load_bytes_per_s": link.load,
            "store_bytes_per_s": link.store,
            "both_bytes_per_s": link.both,
            "latency_s": link.latency_s,
            "start_s": link.start_s,
            "unverified": list(link.unverified),
            "sources": list(link.sources),
            "seen": link.seen,
            "notes": link.notes,
        }
        for name in link_names()
    ]


@_listing("policies", "presets, and the policies they are made of")
def _policies() -> Rows:
    from moesim.policies import describe, policy_presets
    from moesim.policies.offload.create import OFFLOAD_PRESETS, PARTS, offload_part

    rows = [
        {
            "kind": "preset",
            "name": name,
            "what": f"{parts['placement']} placement, {parts['dispatch']} dispatch",
            "parameters": "",
        }
        for name, parts in policy_presets().items()
    ]
    for name, parts in OFFLOAD_PRESETS.items():
        kinds = (f"{part} {offload_part(parts.get(part), None, part)[0]}" for part in PARTS)
        rows.append({"kind": "offload", "name": name, "what": ", ".join(kinds), "parameters": ""})
    return rows + [
        {
            "kind": row.kind,
            "name": row.name,
            "what": row.summary,
            "parameters": ", ".join(f"{one.name}={one.default}" for one in row.parameters),
        }
        for row in describe(("placement", "dispatch", "cache", "prefetch", "misses"))
    ]


@_listing("generators", "the rules that routing can be drawn from")
def _generators() -> Rows:
    from moesim.routing.generators import generator_kinds
    from moesim.routing.generators.registry import generator_parameters

    rows = []
    for kind in generator_kinds():
        fields = generator_parameters(kind).model_fields
        parameters = [
            f"{name} (required)" if field.is_required() else f"{name}={field.get_default()}"
            for name, field in fields.items()
        ]
        rows.append({"name": kind, "parameters": ", ".join(parameters)})
    return rows


@_listing("importers", "the layouts that 'moesim trace import' reads")
def _importers() -> Rows:
    from moesim.routing import importer_kinds, importer_options, importer_summary

    return [
        {
            "name": kind,
            "what": re.sub(r":\w+:`(\w+)`", r"\1", importer_summary(kind)),
            "options": ", ".join(option for option in importer_options(kind) if option != "overwrite"),
        }
        for kind in importer_kinds()
    ]


@_listing("papers", "the papers whose figures 'moesim reproduce' predicts")
def _papers() -> Rows:
    from moesim.papers import load_paper, paper_names

    papers = [load_paper(name) for name in paper_names()]
    return [
        {
            "name": paper.paper,
            "title": paper.title,
            "points": sum(len(figure.points) for figure in paper.figures),
            "source": paper.source,
        }
        for paper in papers
    ]


@list_group.command("scenarios")
@click.argument("directory", type=click.Path(), required=False)
@json_option
def _scenarios(directory: str | None, as_json: bool) -> None:
    """List the scenario files of DIRECTORY (by default ./scenarios)."""
    from moesim.scenario import load_scenario

    beside = Path(__file__).resolve().parents[2] / "scenarios"
    usual = (Path("scenarios"), beside)
    folder = Path(directory) if directory else next((path for path in usual if path.is_dir()), usual[0])
    if not folder.is_dir():
        message = f"there is no directory '{folder}'"
        raise InputError(message, hint="name the directory that holds your scenarios")
    rows = []
    for path in sorted((*folder.glob("*.yaml"), *folder.glob("*.yml"))):
        try:
            scenario = load_scenario(str(path))
            rows.append({"file": path.name, "description": scenario.description or "-"})
        except InputError as error:
            rows.append({"file": path.name, "description": f"cannot be used: {str(error).splitlines()[0]}"})
    print_rows("scenarios", rows, as_json)


@click.command(short_help="Print the JSON Schema of scenarios.")
def schema() -> None:
    """Print the JSON Schema of scenarios, for editors."""
    from moesim.scenario import json_schema

    print_json(json_schema())
