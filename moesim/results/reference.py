"""The reference of results as Markdown, made from the column dictionary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from moesim.causes import CAUSE_MEANING
from moesim.results.columns import (
    POLICY_KEYS,
    RANKING_KEYS,
    STANDING_KEYS,
    SUMMARY_KEYS,
    TABLES,
    Table,
)

_INTRO: Final = """# Results

<!-- Made from moesim/results/columns.py by moesim.results.reference.reference(); do not edit. -->

A run gives a `Result`, several policies in one scenario a `Comparison`. Both have tidy pandas tables,
plots, words (`explain()`), and `save(directory)`. All quantities are SI: seconds, bytes, bytes per
second; `frame.attrs["units"]` of every table maps column to unit.
"""

_INTERVALS: Final = """## Intervals

All policies of a run see the same steps, so that differences between them are taken step by step and what
they share drops out. Intervals are Student's t at 95 %:

* over steps, where there is one seed; where neighbouring steps resemble each other (first autocorrelation
  r > 0), n steps count as n (1 - r) / (1 + r);
* over the means of seeds, where there are several. Seeds that change nothing (a trace does not depend on
  the seed) are no evidence, and count once;
* several traces are given, not drawn: means are over traces, and variances of the traces add up with the
  degrees of freedom of Welch and Satterthwaite.

Speed-ups are ratios of means, linearised (delta method). An interval over the steps of one seed says how
sure the mean is for that routing; only several seeds say what other routing of the same kind would give.
"""

_LAWS: Final = """## Laws

Checked whenever a result is made:

* the causes of a step, and of a layer, sum to its latency;
* no lower bound is above the latency it belongs to;
* the bytes of all owners on a device sum to its peak.
"""

_STORE: Final = """## On disk

`--out DIR`, `Result.save` and `Comparison.save` write a directory, whole or not at all. An earlier run
is replaced; a directory with anything else in it is refused.

| file | holds |
|---|---|
| `run.json` | versions, seed, resolved scenario with its SHA-256, names and SHA-256 of the tables |
| `scenario.yaml` | the resolved scenario, to run again |
| `summary.json` | the keys above |
| `tables/*.parquet` | the tables (`*.csv` where pyarrow is not installed) |
| `timeline.json` | recorded spans for https://ui.perfetto.dev or `chrome://tracing` |
| `plots/*.svg` | the charts |
| `report.html` | everything on one page that needs no network |
| `policies/*/` | in a comparison: the run of each policy, as above |
| `explanation.txt` | in a comparison: what each policy gains or loses, and why |
| `ranking.csv`, `plots/ranking.*` | in a ranking: one row per policy, best first, with intervals |
| `runs/*/` | in a ranking of several runs: the comparison of each, as above |

Without timing (`--no-timing`), the same scenario and seed give the same bytes. `load_result` and
`load_comparison` of `moesim.results` read a directory back.
"""


def _keys(keys: Mapping[str, str]) -> str:
    rows = "\n".join(f"| `{name}` | {meaning} |" for name, meaning in keys.items())
    return f"| key | meaning |\n|---|---|\n{rows}\n"


def _table(table: Table) -> str:
    rows = "\n".join(f"| `{c.name}` | {c.unit or '-'} | {c.kind} | {c.meaning} |" for c in table.columns)
    head = "| column | unit | type | meaning |\n|---|---|---|---|"
    return f"### {table.name}\n\nOne row is {table.row}.\n\n{head}\n{rows}\n"


def reference() -> str:
    """Return ``docs/results.md``: keys, causes, tables, laws and files."""
    parts = [
        _INTRO,
        f"## Keys of `simulate --json`\n\n{_keys(SUMMARY_KEYS)}",
        "## Keys of `compare-policies --json`\n\n"
        "`baseline` is the name of the policy that the others are measured against; `policies` has one "
        f"object per policy:\n\n{_keys(POLICY_KEYS)}",
        f"With `--all`, `--seeds`, `--traces` or `--rank` there are also\n\n{_keys(RANKING_KEYS)}\n"
        f"and each policy has also\n\n{_keys(STANDING_KEYS)}",
        _INTERVALS,
        f"## Causes\n\nWhat a second of a step is spent on, in this order.\n\n{_keys(CAUSE_MEANING)}",
        "## Tables\n",
        *(_table(table) for table in TABLES.values()),
        _LAWS,
        _STORE,
    ]
    return "\n".join(parts)
