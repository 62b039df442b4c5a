"""Tables of ``docs/offloading.md``, made from the registry so that they cannot go stale.

``python -m moesim.policies.offload.page docs/offloading.md`` writes the parts between the markers anew.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from moesim.policies.offload.create import OFFLOAD_PRESETS, PARTS, create_offload, offload_part
from moesim.policies.offload.system import OffloadSettings
from moesim.policies.rows import describe, parameter_rows

OFFLOAD_SOURCES: Final[Mapping[str, str]] = {
    "resident": "baseline: all experts on the devices",
    "on_demand": "baseline (MoE-OnDemand)",
    "mixtral_offloading": "arXiv 2312.17238",
    "hobbit": "arXiv 2411.01433",
    "hybrimoe": "arXiv 2504.05897",
    "fiddler": "arXiv 2402.07033",
    "ktransformers": "SOSP'25",
    "moe_infinity": "arXiv 2401.14361",
    "edgemoe": "arXiv 2308.14352",
    "expertflow": "arXiv 2410.17954",
    "promoe": "arXiv 2410.22134",
    "adapmoe": "arXiv 2408.10284",
    "pregated": "Pre-gated MoE, arXiv 2308.12066",
    "fmoe": "FineMoE, arXiv 2502.05370",
    "daop": "arXiv 2501.10375",
    "layer_streaming": "Accelerate, DeepSpeed ZeRO-Inference; SE-MoE, arXiv 2205.10034",
}
"""Where the systems come from."""


def systems_table() -> str:
    """Return the table of systems: what they are made of."""
    lines = [
        "| system | cache | prefetch | misses | otherwise | exact | source |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, preset in OFFLOAD_PRESETS.items():
        parts = [_part(*offload_part(preset.get(part), None, part)) for part in PARTS]
        others = ", ".join(f"{key} {_plain(value)}" for key, value in preset.items() if key not in PARTS)
        exact = "yes" if create_offload(name).exact else "no"
        source = OFFLOAD_SOURCES.get(name, "")
        lines.append(f"| `{name}` | {' | '.join(parts)} | {others} | {exact} | {source} |")
    return "\n".join(lines)


def _part(kind: str, parameters: Mapping[str, Any]) -> str:
    given = ", ".join(f"{key} {_plain(value)}" for key, value in parameters.items())
    return f"`{kind}`" + (f" ({given})" if given else "")


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def misses_table() -> str:
    """Return the table of miss policies."""
    lines = ["| name | parameters | what it does | source |", "|---|---|---|---|"]
    for row in describe(("misses",)):
        given = "; ".join(f"`{p.name}` = {p.default}: {p.description}" for p in row.parameters) or "none"
        lines.append(f"| `{row.name}` | {given} | {row.summary} | {row.source} |")
    return "\n".join(lines)


def settings_table() -> str:
    """Return the table of the other keys of ``offload``."""
    lines = ["| key | default | meaning |", "|---|---|---|"]
    for row in parameter_rows(OffloadSettings):
        default = "-" if row.default == "None" else row.default
        lines.append(f"| `{row.name}` | {default} | {row.description} |")
    return "\n".join(lines)


def refreshed(page: str) -> str:
    """Return a page with the text between ``<!-- begin X -->`` and ``<!-- end X -->`` made anew.

    Raises:
        KeyError: a marker names no known part.
    """
    tables = {"systems": systems_table, "misses": misses_table, "settings": settings_table}

    def fill(match: re.Match[str]) -> str:
        name = match.group(1)
        return f"<!-- begin {name} -->\n\n{tables[name]()}\n\n<!-- end {name} -->"

    return re.sub(r"<!-- begin ([a-z ]+) -->.*?<!-- end \1 -->", fill, page, flags=re.DOTALL)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.write_text(refreshed(target.read_text(encoding="utf-8")), encoding="utf-8")
