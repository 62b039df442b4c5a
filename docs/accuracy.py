"""Write the accuracy tables of README.md and docs/cost-models.md from ``moesim.reproduce()``.

Run it after a change of a cost model: ``python docs/accuracy.py``. A slow test fails if the pages are stale.
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

import moesim

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"README.md": "headlines", "docs/cost-models.md": "all"}
HEADLINES = (
    (
        "Fig. 4 speed-up, gpt-oss-120b",
        "fraction=0.95, hot=1",
        "LLEP over EP, gpt-oss-120b layer, 95 % to 1 expert",
    ),
    (
        "Fig. 4 speed-up, DeepSeek-V3",
        "fraction=0.5, hot=1",
        "LLEP over EP, DeepSeek-V3 layer, 50 % to 1 expert",
    ),
    (
        "Fig. 4 speed-up, Kimi-K2",
        "fraction=0.3, hot=1",
        "LLEP over EP, Kimi-K2 layer, 30 % to 1 (worst of LLEP)",
    ),
    ("Fig. 4 peak memory, gpt-oss-120b, EP", "fraction=0.95, hot=1", "peak memory of EP, gpt-oss-120b layer"),
    (
        "Fig. 4 peak memory, gpt-oss-120b, LLEP",
        "fraction=0.95, hot=1",
        "peak memory of LLEP, gpt-oss-120b layer",
    ),
    (
        "Normal kernels, dispatch",
        "nodes=4, n_group=4, topk_group=4",
        "DeepEP dispatch on 4 H800 nodes",
    ),
    ("Rank imbalance, 32 ranks", "policy=eplb", "(max - mean) / mean load left by EPLB, 32 GB200"),
    ("DeepSeek decode, 18 H800 nodes", "tokens_per_device=88", "DeepSeek's production decode"),
    ("vLLM decode, H200 nodes", "nodes=4", "vLLM decode on 4 H200 nodes"),
    (
        "SGLang decode, 9 H100 nodes",
        "overlap=two_batch",
        "SGLang decode on 9 H100 nodes, two batches overlapped",
    ),
    ("SGLang, gain of EPLB in prefill", "context=4096", "EPLB over none, SGLang prefill on 4 H100 nodes"),
    (
        "Decode step, 4 cards, context 2048, batch 456",
        "tokens_per_device=114",
        "Pangu Pro MoE decode on 4 Ascend 910B, batch 456",
    ),
    (
        "TP8, conversations",
        "context=200",
        "Mixtral-8x22B in SGLang without CUDA graphs, TP8 (worst of steps)",
    ),
    (
        "Time per token, Mixtral-8x7B",
        "",
        "Mixtral-8x7B offloaded by MoE-Infinity, RTX A5000",
    ),
    (
        "Hit rate in decoding, DeepSeek-V2-Lite",
        "policy=lru",
        "hit rate of LRU, a quarter of DeepSeek-V2-Lite's experts (HybriMoE)",
    ),
    (
        "Decode speed-up over MoE-Offloading, RTX 4090, Mixtral",
        "",
        "HOBBIT over MoE-Offloading, decode",
    ),
    ("Decode rate, A100", "policy=mixtral_offloading", "Mixtral-offloading on A100, decode"),
    (
        "Throughput, MTBench, T4",
        "schedule=cgopipe",
        "MoE-Lightning on T4, by its own roofline (worst of all)",
    ),
)
"""Figure, point, and what the README calls it."""
UNITS = {"x": "x", "(max-mean)/mean": "", "share": "", "tokens/s per device": " tokens/s/GPU"}


def per_figure(rows: pd.DataFrame) -> str:
    """Return one table row per published figure: points, median, worst and mean signed error."""
    lines = ["| paper | figure | points | median | worst | bias |", "|---|---|---|---|---|---|"]
    for (paper, figure), points in rows.groupby(["paper", "figure"], sort=False):
        errors = points["relative_error"] * 100
        worst = errors[errors.abs().idxmax()]
        numbers = f"{errors.abs().median():.1f} % | {worst:+.1f} % | {errors.mean():+.1f} %"
        lines.append(f"| {paper} | {figure} | {len(points)} | {numbers} |")
    return "\n".join(lines)


def headlines(rows: pd.DataFrame) -> str:
    """Return a table of chosen points, and one line about all speed-ups and all memory figures."""
    lines = ["| figure | published | predicted | error |", "|---|---|---|---|"]
    for figure, point, label in HEADLINES:
        found = rows[(rows["figure"] == figure) & (rows["point"] == point)].iloc[0]
        digits = ".0f" if found["published"] >= 100 else ".3g"
        unit = UNITS.get(found["unit"], f" {found['unit']}")
        numbers = f"{found['published']:{digits}}{unit} | {found['predicted']:{digits}}{unit}"
        lines.append(f"| {label} | {numbers} | {100 * found['relative_error']:+.1f} % |")
    llep = rows[rows["paper"] == "llep"]
    parts = []
    for name, unit in (("speed-ups", "x"), ("memory peaks", "GiB")):
        errors = llep[llep["unit"] == unit]["relative_error"].abs() * 100
        parts.append(
            f"{len(errors)} {name}: median error {errors.median():.1f} %, worst {errors.max():.1f} %"
        )
    return "\n".join([*lines, "", f"All points of LLEP: {'; '.join(parts)}."])


def pages(rows: pd.DataFrame) -> dict[str, str]:
    """Return the text of each page with its table filled in."""
    tables = {"headlines": headlines(rows), "all": per_figure(rows)}
    texts = {}
    for page, kind in PAGES.items():
        text = (ROOT / page).read_text(encoding="utf-8")
        pattern = re.compile(r"(<!-- begin accuracy[^\n]*-->\n).*?(<!-- end accuracy -->)", re.DOTALL)
        texts[page], found = pattern.subn(lambda m, k=kind: f"{m[1]}{tables[k]}\n{m[2]}", text)
        assert found == 1, f"{page} needs one accuracy section"
    return texts


if __name__ == "__main__":
    for name, text in pages(moesim.reproduce()).items():
        (ROOT / name).write_text(text, encoding="utf-8")
