"""Write docs/accuracy.md, all errors of all families on all measured devices, and a table in cost-models.md.

Run: python benchmarks/accuracy_page.py [--family NAME]   (needs the extra ``measured``; takes minutes)
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pandas as pd

from moesim.accuracy import accuracy
from moesim.accuracy.moe_effects import eplb_gain, pooled, skew, straggler
from moesim.accuracy.page import by_software, families_by_device, markdown, ratios

PAGE = Path(__file__).resolve().parents[1] / "docs" / "accuracy.md"
MODELS = PAGE.with_name("cost-models.md")
BEGIN = "<!-- errors: written by benchmarks/accuracy_page.py -->"
END = "<!-- end of errors -->"
KERNELS = (("bf16", "vllm/triton"), ("fp8_block", "sglang/triton"), ("fp8_block", "vllm/cutlass"))


def stragglers() -> str:
    """Return a section on skewed over balanced load with EP."""
    rows = []
    for device in ("H100-SXM", "H200-SXM"):
        for dtype, backend in KERNELS:
            pairs = straggler(device, dtype, backend)
            errors = (pairs["predicted_ratio"] / pairs["measured_ratio"] - 1.0).abs()
            medians = [pairs[f"{name}_ratio"].median() for name in ("measured", "predicted")]
            cells = [device, dtype, backend, str(len(pairs)), *(f"{value:.2f}" for value in medians)]
            cells += [f"{errors.median():.1%}", f"{errors.quantile(0.9):.1%}"]
            rows.append("| " + " | ".join(cells) + " |")
    head = (
        "| device | dtype | backend | pairs | measured | predicted | median error | p90 |\n|" + " --- |" * 8
    )
    title = "## Stragglers: power law 1.2 over balanced, EP 2 and more\n\n"
    return title + "\n".join([head, *rows, ""])


def sections() -> list[str]:
    """Return the sections on ratios."""
    by_tokens = skew("H200-SXM", "bf16", "vllm/triton")
    devices = ("H100-SXM", "H200-SXM", "B200-SXM", "A100-SXM-80GB", "L40S", "RTX-PRO-6000")
    return [
        by_software({name: (pooled(name), pooled(name, everything=True)) for name in devices}),
        stragglers(),
        ratios(
            "The sign of skew: power law 1.2 over balanced without EP, H200, bf16",
            "Median over models by tokens: below one while few experts are read, above from 500 tokens.",
            by_tokens.loc[by_tokens.index.isin([1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192])],
        ),
        ratios(
            "EPLB over no EPLB: TensorRT-LLM wide EP, H200, fp8",
            "Median by EP over both power laws, equal slots.",
            pd.DataFrame(eplb_gain("H200-SXM")),
        ),
    ]


def main() -> None:
    """Score and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--family")
    family = parser.parse_args().family
    extra = sections() if family in (None, "moe") else []
    report = accuracy(family=family, workers=os.cpu_count() or 1)
    PAGE.write_text(markdown(report, extra), encoding="utf-8")
    if family is None:
        text = MODELS.read_text(encoding="utf-8")
        before, after = text[: text.index(BEGIN)], text[text.index(END) :]
        MODELS.write_text(f"{before}{BEGIN}\n\n{families_by_device(report)}\n\n{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
