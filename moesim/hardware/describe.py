"""Tables of docs/hardware.md, generated from the catalogues so that they cannot go stale.

``python -m moesim.hardware.describe docs/hardware.md`` rewrites the parts between the markers.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moesim import units
from moesim.hardware.catalogue import catalogue_entry, device_names, source_texts
from moesim.hardware.copy_checks import copy_checks
from moesim.hardware.dense_constants import gemm_entries
from moesim.hardware.link_catalogue import link_names, load_link
from moesim.hardware.presets import cluster_names, load_cluster, preset_mappings


def device_table() -> str:
    """Return the device catalogue as a Markdown table."""
    head = (
        "device",
        "dense peak (TFLOP/s)",
        "memory",
        "units",
        "GEMM",
        "memory eff.",
        "calibrated as",
        "confidence",
        "sources",
    )
    rows = []
    for name in device_names():
        entry = catalogue_entry(name)
        device = entry.device
        shown = ("bf16", "fp16", "fp8", "int8", "fp4")
        peaks = ", ".join(
            f"{key} {device.peak_flops[key] / 1e12:g}" for key in shown if key in device.peak_flops
        )
        memory = device.memory
        size = f"{units.format_bytes(memory.capacity)} {memory.name}, {units.format_rate(memory.bandwidth)}"
        marks = {
            key: "\\*" if key in entry.unverified else "" for key in ("compute_units", "gemm_efficiency")
        }
        rows.append(
            (
                f"{name}" + (f" ({', '.join(entry.aliases)})" if entry.aliases else ""),
                peaks,
                size,
                f"{device.compute_units}{marks['compute_units']}",
                _share(device.gemm_efficiency) + marks["gemm_efficiency"],
                _share(device.memory_efficiency) + ("\\*" if "memory_efficiency" in entry.unverified else ""),
                device.kin or (name if name in gemm_entries() else "generic"),
                entry.confidence,
                ", ".join(text.split(":")[0] for text in device.sources),
            )
        )
    return _table(head, rows)


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def device_notes() -> str:
    """Return what the device entries say beside their numbers."""
    notes = ((name, catalogue_entry(name).notes) for name in device_names())
    return "\n".join(f"* {name}: {note}" for name, note in notes if note)


def cluster_table() -> str:
    """Return the cluster presets as a Markdown table; usable bandwidths per direction."""
    head = (
        "cluster",
        "what",
        "devices",
        "inside a node",
        "between nodes",
        "collective",
        "confidence",
        "sources",
    )
    rows = []
    for name in cluster_names():
        preset = preset_mappings()[name]
        cluster = load_cluster(name)
        shape = cluster.shape
        inside = between = "-"
        if shape.intra is not None:
            wire = shape.intra.wire
            inside = f"{wire.kind} {shape.intra.topology}, {units.format_rate(wire.usable)} per device"
            if shape.intra.total is not None:
                inside += f", {units.format_rate(shape.intra.total)} in all"
        if shape.inter is not None:
            wire, count = shape.inter.wire, shape.inter.nics_per_node
            between = f"{wire.kind} {shape.inter.topology}, {count} x {units.format_rate(wire.usable)}"
        rows.append(
            (
                name,
                str(preset["summary"]),
                f"{cluster.size} in {cluster.node_count}",
                inside,
                between,
                units.format_time(cluster.collective_latency_s),
                str(preset["confidence"]),
                ", ".join(preset["sources"]),
            )
        )
    return _table(head, rows)


def cluster_notes() -> str:
    """Return what the presets say beside their numbers."""
    presets: Mapping[str, Mapping[str, Any]] = preset_mappings()
    return "\n".join(f"* {name}: {entry['notes']}" for name, entry in presets.items() if "notes" in entry)


def processor_table() -> str:
    """Return hosts whose processor is described as a Markdown table."""
    head = ("cluster", "host memory", "host link", "FLOP/s", "reads weights", "first expert", "power")
    rows = []
    for name, preset in preset_mappings().items():
        if "cpu" not in preset.get("host", {}):
            continue
        host = load_cluster(name).shape.host
        assert host is not None
        cpu = host.processor
        rows.append(
            (
                name,
                "the device's own" if host.unified else units.format_bytes(host.capacity),
                "none" if host.unified else str(preset["host"]["link"]),
                units.format_flops(cpu.flops),
                units.format_rate(cpu.read),
                f"{units.format_time(cpu.first)} more" if cpu.first else "-",
                f"{cpu.power_w:g} W" if cpu.power_w else "-",
            )
        )
    return _table(head, rows)


def link_table() -> str:
    """Return the catalogue of host and storage links as a Markdown table."""
    head = ("link", "kind", "nominal", "load", "store", "both", "latency", "start", "confidence", "sources")
    rows = []
    for name in link_names():
        link = load_link(name)
        nominal = units.format_rate(link.nominal)
        if link.nominal_store != link.nominal:
            nominal += f" / {units.format_rate(link.nominal_store)}"
        shown = {
            "load": units.format_rate(link.load),
            "store": units.format_rate(link.store),
            "both": "-" if link.both is None else units.format_rate(link.both),
            "latency": units.format_time(link.latency_s),
            "start": units.format_time(link.start_s),
        }
        marked = [
            text + ("\\*" if key in link.unverified and text != "-" else "") for key, text in shown.items()
        ]
        named = f"{name} ({', '.join(link.aliases)})" if link.aliases else name
        rows.append((named, link.kind, nominal, *marked, link.confidence, ", ".join(link.sources)))
    return _table(head, rows)


def link_notes() -> str:
    """Return what the entries of links say beside their numbers, those with fewer lanes left out."""
    notes = ((name, load_link(name)) for name in link_names())
    return "\n".join(f"* {name}: {link.notes}" for name, link in notes if " of pcie" not in link.notes)


def copy_check_table() -> str:
    """Return measured copies beside their predictions as a Markdown table."""
    head = ("copy", "over", "measured", "predicted", "error", "source", "catalogue rests on it")
    rows = [
        (
            check.what,
            ", ".join(check.path),
            units.format_time(check.measured_s),
            units.format_time(check.predicted_s),
            f"{check.error:+.0%}",
            check.source,
            "yes" if check.used else "",
        )
        for check in copy_checks()
    ]
    return _table(head, rows)


def source_list() -> str:
    """Return what each source key stands for."""
    return "\n".join(f"* `{key}`: {text}" for key, text in source_texts().items())


def refreshed(page: str) -> str:
    """Return a page with the text between ``<!-- begin X -->`` and ``<!-- end X -->`` made anew.

    Raises:
        KeyError: a marker names no known part.
    """
    parts = {
        "devices": device_table,
        "device notes": device_notes,
        "clusters": cluster_table,
        "cluster notes": cluster_notes,
        "processors": processor_table,
        "links": link_table,
        "link notes": link_notes,
        "copy checks": copy_check_table,
        "sources": source_list,
    }

    def fill(match: re.Match[str]) -> str:
        name = match.group(1)
        return f"<!-- begin {name} -->\n\n{parts[name]()}\n\n<!-- end {name} -->"

    return re.sub(r"<!-- begin ([a-z ]+) -->.*?<!-- end \1 -->", fill, page, flags=re.DOTALL)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.write_text(refreshed(target.read_text(encoding="utf-8")), encoding="utf-8")
