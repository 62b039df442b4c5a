"""Pieces of HTML: escaped text, tables, key figures, inline SVG."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from moesim.causes import CAUSES
from moesim.results.explain import SAID
from moesim.results.metrics import ratio
from moesim.results.serving_words import SERVING_HEADS, serving_lines, serving_rows
from moesim.units import format_bytes, format_time

if TYPE_CHECKING:
    from moesim.results.comparison import Comparison
    from moesim.results.result import Result


def escape(text: object) -> str:
    """Escape text for element content and quoted attributes."""
    return html.escape(str(text), quote=True)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], first: str = "") -> str:
    """Return a table whose first column names the row; all cells are escaped.

    Args:
        heads: column headings, the first one included.
        rows: cells of each row, as many as headings.
        first: text of the row name to stress, if any.
    """
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in heads)
    body = []
    for name, *cells in rows:
        mark = ' class="stressed"' if name == first else ""
        inner = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        body.append(f'<tr{mark}><th scope="row">{escape(name)}</th>{inner}</tr>')
    inner = f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody>"
    return f'<div class="scroll"><table>{inner}</table></div>'


def inline_svg(image: bytes, name: str, label: str) -> str:
    """Return an SVG for use inside a page: ids made unique by a prefix, size left to the page.

    Args:
        image: SVG file.
        name: prefix of the ids, unique on the page.
        label: what the picture shows, for readers that cannot see it.
    """
    text = image.decode("utf-8")
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    text = re.sub(r'href="#', f'href="#{name}-', text)
    size = r'<svg ([^>]*?)width="[^"]*"([^>]*?)'
    text = re.sub(r' height="[\d.]+pt"', "", text, count=1)
    return re.sub(size, rf'<svg role="img" aria-label="{escape(label)}" \1\2', text, count=1)


def verdict(result: Result) -> str:
    """Say whether the run fits in memory."""
    return f"{len(result.out_of_memory)} run out" if result.out_of_memory else "fits"


def policy_table(comparison: Comparison) -> str:
    """Return the table of all policies of a comparison."""
    rows = [
        (
            result.policy,
            format_time(result.latency_s["mean"]),
            format_time(result.latency_s["p99"]),
            f"{comparison.speedup(result):.2f}x",
            f"{100 * result.bound_fraction:.0f} %",
            f"{result.imbalance:.2f}",
            format_bytes(result.peak_memory_bytes),
            f"{comparison.memory_ratio(result):.2f}x",
            verdict(result),
            "yes" if result.exact else "no",
        )
        for result in comparison.results
    ]
    heads = (
        "policy",
        "latency",
        "p99",
        "speed-up",
        "bound",
        "imbalance",
        "peak memory",
        "ratio",
        "memory",
        "exact",
    )
    return table(heads, rows, comparison.baseline.policy)


def serving_table(results: Sequence[Result], first: str = "") -> str:
    """Return the table of the runs that offload; empty where none does.

    Args:
        results: the runs.
        first: name of the policy to stress, if any.
    """
    rows = serving_rows(results)
    return table(SERVING_HEADS, rows, first) if rows else ""


def serving_list(result: Result) -> str:
    """Return the figures of a run that offloads as a table of two columns; empty for other runs."""
    rows = serving_lines(result)
    return table(("figure", "value"), rows) if rows else ""


def cause_table(results: Sequence[Result]) -> str:
    """Return seconds and shares by cause, one column per policy."""
    rows = []
    for cause in CAUSES:
        cells = [result.breakdown_s[cause] for result in results]
        if any(cells):
            shares = (ratio(s, r.latency_s["mean"]) for s, r in zip(cells, results, strict=True))
            texts = (f"{format_time(s)} ({100 * p:.1f} %)" for s, p in zip(cells, shares, strict=True))
            rows.append((SAID[cause], *texts))
    rows.append(("all", *(format_time(result.latency_s["mean"]) for result in results)))
    return table(("cause", *(result.policy for result in results)), rows, "all")


def figures_of(result: Result) -> list[tuple[str, str]]:
    """Return the key figures of a run: name and text."""
    latency = result.latency_s
    changes = [] if result.exact else [("changed tokens", f"{result.changed_tokens:,}")]
    return [
        ("latency per step", format_time(latency["mean"])),
        ("p99", format_time(latency["p99"])),
        ("throughput", f"{result.throughput_tokens_per_s:,.0f} tokens/s"),
        ("lower bound / latency", f"{100 * result.bound_fraction:.0f} %"),
        ("imbalance", f"{result.imbalance:.2f}"),
        ("peak memory", format_bytes(result.peak_memory_bytes)),
        ("memory", verdict(result)),
        *changes,
    ]


def result_card(result: Result) -> str:
    """Return a small table of a run for a notebook."""
    caption = f"<strong>{escape(result.name)}</strong>: {escape(result.policy)}"
    return f"<div>{caption}{table(('figure', 'value'), figures_of(result))}{serving_list(result)}</div>"


def comparison_card(comparison: Comparison) -> str:
    """Return a small table of a comparison for a notebook."""
    lines = "<br>".join(escape(line) for line in comparison.explain())
    tables = policy_table(comparison) + serving_table(comparison.results, comparison.baseline.policy)
    return f"<div><strong>{escape(comparison.name)}</strong>{tables}<p>{lines}</p></div>"
