"""The page of errors in the documentation, written from a report and never by hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import pandas as pd

from moesim.accuracy.run import AccuracyReport
from moesim.accuracy.score import COLUMNS, summarise

PROTOCOLS: Final = ("leave_model_out", "leave_device_out", "leave_points_out")

_HEAD: Final = """# Accuracy of the cost models

This page is generated (`python benchmarks/accuracy_page.py`); `moesim accuracy` prints the same tables.
Measurements are those of the published package aiconfigurator-core; errors are absolute and relative to
the measurement. No row is scored with constants that have seen it:

* `leave_model_out`: constants of a device, number format and kernel family come from all other models;
* `leave_device_out`: constants come from all other devices, as shares of their datasheets' rates
  (collectives: from devices behind links of the same kind and rate first; latencies go with generations);
* `leave_points_out` (source `measured`): every other number of tokens (rows of a GEMM, bytes of a collective)
  is dropped from the tables, and read off those that stay as a run with measured prices reads them.

* `end_to_end`: whole steps of serving systems and of training; nothing is fitted to any of them, but the
  constants may come from kernels of the same model.

What the constants do not cover is fixed once per family of kernels: the rule by which it chooses blocks,
its tile widths, what it pads and reads again, and how often it passes over its rows. These counts were
chosen by looking at the tables of H100, H200 and B200 as a whole (others for kernels that only run there),
by the error with a fifth of the models left out in turn. So they are no prediction in the sense above.
Groups of more than 3000 (MoE) or 4000 timings are thinned to that many, always the same ones.
"""


def markdown(report: AccuracyReport, extra: Iterable[str] = ()) -> str:
    """Write the page.

    Args:
        report: what to show.
        extra: further sections, in markdown.
    """
    whole = summarise(report.points.assign(dtype="all", backend="all"))
    parts = [
        _HEAD,
        "## What is left aside\n",
        *(f"* {note}." for note in report.notes),
        "",
        "## By device and family\n",
        _table(whole, [name for name in COLUMNS if name not in ("dtype", "backend")]),
        *extra,
        "## By number format and software\n",
        _table(report.rows, list(COLUMNS)),
        "## Furthest off\n",
        "The worst point of every row above, by its error.\n",
        _worst(report.worst),
    ]
    return "\n".join(parts)


def by_software(tables: Mapping[str, tuple[pd.DataFrame, pd.DataFrame]]) -> str:
    """Write a section on MoE errors by software, without and with the contradicted timings."""
    head = [
        "device",
        "software",
        "count",
        "median",
        "p90",
        "count with all",
        "median with all",
        "p90 with all",
    ]
    lines = [
        "## MoE layers by software, models left out\n",
        "What a software starts by itself on a device is in its own tables; `all` pools them. The last three",
        "columns count the contradicted timings too, in the fits as well.\n",
        "| " + " | ".join(head) + " |",
        "| --- | --- |" + " ---: |" * 6,
    ]
    for device, (kept, every) in tables.items():
        for software in kept.index:
            cells = [
                cell
                for table in (kept, every)
                for cell in (
                    str(int(table.loc[software, "count"])),
                    f"{table.loc[software, 'median']:.1%}",
                    f"{table.loc[software, 'p90']:.1%}",
                )
            ]
            lines.append(f"| {device} | {software} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def families_by_device(report: AccuracyReport) -> str:
    """Write a table of median and 90th percentile per family, device and protocol."""
    whole = summarise(report.points.assign(dtype="all", backend="all"))
    cells = whole.assign(text=[f"{row.median_ape:.1%} / {row.p90_ape:.1%}" for row in whole.itertuples()])
    protocols = [name for name in PROTOCOLS if name in set(whole["protocol"])]
    wide = cells.pivot(index=["family", "device"], columns="protocol", values="text").fillna("")
    lines = [
        "| family | device | " + " | ".join(protocols) + " |",
        "| --- | --- |" + " ---: |" * len(protocols),
    ]
    for key, row in wide.iterrows():
        lines.append("| " + " | ".join([*map(str, key), *(row[name] for name in protocols)]) + " |")  # type: ignore[call-overload]
    return "\n".join(lines)


def ratios(title: str, text: str, table: pd.DataFrame) -> str:
    """Write a section with a table of measured and predicted ratios."""
    rows = [
        f"| {table.index.name} | " + " | ".join(str(key) for key in table.index) + " |",
        "| --- |" + " ---: |" * len(table),
    ]
    for name in table.columns:
        label = str(name).removesuffix("_ratio")
        rows.append(f"| {label} | " + " | ".join(f"{value:.2f}" for value in table[name]) + " |")
    return "\n".join([f"## {title}\n", f"{text}\n", *rows, ""])


def _table(rows: pd.DataFrame, columns: list[str]) -> str:
    """Write a summary as a table, errors in percent."""
    lines = ["| " + " | ".join(name.removesuffix("_ape") for name in columns) + " |"]
    lines.append("| " + " | ".join("---:" if _is_number(name) else "---" for name in columns) + " |")
    for row in rows.to_dict("records"):
        cells = [f"{row[name]:.1%}" if name.endswith("_ape") else str(row[name]) for name in columns]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def _is_number(name: str) -> bool:
    return name.endswith("_ape") or name == "count"


def _worst(worst: pd.DataFrame, count: int = 20) -> str:
    """Write the worst points of all."""
    lines = [
        "| device | family | dtype | backend | case | measured | predicted | error |",
        "|" + " --- |" * 8,
    ]
    order = worst["error"].abs().sort_values(ascending=False, kind="stable").index[:count]
    for row in worst.loc[order].to_dict("records"):
        names = [str(row[name]) for name in ("device", "family", "dtype", "backend")]
        times = [f"{row[name] * 1e6:.4g} us" for name in ("measured_s", "predicted_s")]
        cells = [*names, f"{row['shape']} {row['case']} ({row['protocol']})", *times, f"{row['error']:+.0%}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])
