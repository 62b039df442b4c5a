"""The catalogue as a page: ``python -m moesim.model.document docs/models.md`` writes it anew.

The prose stands in ``data/models_page.md``; tables and lists are put where its comments are.
"""

from __future__ import annotations

import sys
from importlib.resources import files
from pathlib import Path

from moesim.model.catalogue import entries, load_model
from moesim.model.spec import ModelSpec

_HEADER = (
    "model", "layers (MoE)", "width", "experts", "top-k", "attention", "total B", "reported", "active B",
    "reported", "counts", "weights GB", "expert MB", "KV kB/token",
)  # fmt: skip


def _billions(value: float | None) -> str:
    return "-" if value is None else f"{value / 1e9:.4g}"


def _kinds(model: ModelSpec) -> str:
    """Name the kinds of attention, ``gqa/128`` being one with a window of 128 tokens."""
    names = dict.fromkeys(
        layer.attention.kind
        + (f"/{layer.attention.sliding_window}" if layer.attention.sliding_window else "")
        for layer in model.layers
    )
    return " + ".join(names)


def _row(model: ModelSpec) -> tuple[str, ...]:
    layer = model.moe_layers[0]
    idle = len(layer.experts) - len(layer.exchanged)
    experts = str(model.experts) + (f" + {idle} free" if idle else "") + (" + shared" if layer.shared else "")
    told = model.reported
    return (
        model.name,
        f"{len(model.layers)} ({len(model.moe_layers)})",
        str(model.hidden),
        experts,
        str(model.top_k),
        _kinds(model),
        f"{model.total_params / 1e9:.2f}",
        _billions(told.total) + (" (!)" if told.exception else ""),
        f"{model.active_params(told.convention) / 1e9:.2f}",
        _billions(told.active) + (" (!)" if told.active_exception else ""),
        told.convention.removesuffix("_embeddings").removesuffix("_embedding").replace("_", " "),
        f"{model.weight_bytes / 1e9:.1f}",
        f"{model.expert_bytes / 1e6:.1f}",
        f"{model.kv_bytes_per_token() / 1e3:.1f}",
    )


def _source(name: str) -> str:
    """Write where one model's dimensions and figures were read."""
    entry = entries()[name]
    remark = str(entry.get("notes", "")).strip()
    notes = f" {remark[0].upper()}{remark[1:]}." if remark else ""
    counts = entry.get("reported", {}).get("source")
    figures = f" Figures: {counts}." if counts else ""
    return f"* {name}: {entry['source'].strip()}.{figures}{notes}"


def page() -> str:
    """Return the whole page as Markdown."""
    models = [load_model(name) for name in entries()]
    rows = [_HEADER, ("---",) * len(_HEADER), *(_row(model) for model in models)]
    exceptions = [
        f"* {model.name}, {what}: {reason}."
        for model in models
        for what, reason in (
            ("total", model.reported.exception),
            ("active", model.reported.active_exception),
        )
        if reason
    ]
    text = files("moesim.model").joinpath("data/models_page.md").read_text(encoding="utf-8")
    parts = {
        "table": [f"| {' | '.join(row)} |" for row in rows],
        "exceptions": exceptions,
        "sources": [_source(name) for name in entries()],
    }
    for mark, lines in parts.items():
        text = text.replace(f"<!-- {mark} -->", "\n".join(lines))
    return text


if __name__ == "__main__":
    Path(sys.argv[1] if len(sys.argv) > 1 else "docs/models.md").write_text(page(), encoding="utf-8")
