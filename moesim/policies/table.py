"""The registered policies as a Markdown page; ``moesim.papers.policy_page`` writes ``docs/policies.md``."""

from __future__ import annotations

from collections.abc import Mapping

from moesim.policies.offload.create import OFFLOAD_PRESETS, PARTS, offload_part
from moesim.policies.prediction import PREDICTORS
from moesim.policies.presets import policy_presets
from moesim.policies.registry import Kind
from moesim.policies.rows import describe, parameter_rows

_HEAD = """# Policies

A policy is a placement (which device holds which expert) and a dispatch (which device computes which token
copies). This page is generated from the registry: `python -m moesim.papers.policy_page > docs/policies.md`.
How to add one: [adding-a-policy.md](adding-a-policy.md). The last column counts the published points that
`moesim reproduce PAPER` predicts with the policy; [how close they come](cost-models.md#how-close-it-comes).
"""


def markdown(reproduced: Mapping[tuple[str, str], str]) -> str:
    """Return the page that documents the registered policies.

    Args:
        reproduced: published figures predicted with a policy, as text, by kind and name.
    """
    lines = [
        _HEAD,
        "| kind | name | exact | needs | parameters | what it does | source | reproduced |",
        "|---|---|---|---|---|---|---|---|",
    ]
    rows = describe()
    for row in rows:
        listed = ", ".join(f"`{p.name}` = {p.default}" for p in row.parameters) or "none"
        exact = "yes" if row.exact else "no"
        told = reproduced.get((row.kind, row.name), "none")
        lines.append(
            f"| {row.kind} | `{row.name}` | {exact} | {row.needs} | {listed} | {row.summary} | {row.source} "
            f"| {told} |"
        )
    lines += ["", "## Parameters", "", "| policy | parameter | default | meaning |", "|---|---|---|---|"]
    lines += [
        f"| `{row.name}` | `{p.name}` | {p.default} | {p.description} |"
        for row in rows
        for p in row.parameters
    ]
    lines += ["", "## Presets", "", "| name | placement | dispatch |", "|---|---|---|"]
    lines += [f"| `{n}` | `{p['placement']}` | `{p['dispatch']}` |" for n, p in policy_presets().items()]
    lines += [
        "",
        "## Offloading systems",
        "",
        "Names for `offload`, see [caching.md](caching.md) and [prefetching.md](prefetching.md).",
        "",
        "| name | cache | prefetch | misses | settings | reproduced |",
        "|---|---|---|---|---|---|",
    ]
    for name, system in OFFLOAD_PRESETS.items():
        parts = [offload_part(system.get(part), None, part)[0] for part in PARTS]
        settings = ", ".join(f"`{key}` = {value}" for key, value in system.items() if key not in PARTS)
        told = reproduced.get(("system", name), "none")
        lines.append(f"| `{name}` | {' | '.join(f'`{p}`' for p in parts)} | {settings or 'none'} | {told} |")
    lines += [
        "",
        "## Predictors",
        "",
        "A policy that decides before the gate takes a `predictor`: a name, or `{kind: NAME, ...}`.",
        "",
        "| name | parameters | what it predicts | source |",
        "|---|---|---|---|",
    ]
    for name, kind in PREDICTORS.items():
        taken = ", ".join(f"`{p.name}` = {p.default}" for p in parameter_rows(kind) if p.name != "kind")
        lines.append(f"| `{name}` | {taken} | {kind.summary} | {kind.source} |")
    return "\n".join(lines) + "\n"


def cache_table() -> str:
    """Return the table of cache policies in ``docs/caching.md``."""
    return _short_table("cache")


def prefetch_table() -> str:
    """Return the table of prefetch policies in ``docs/prefetching.md``."""
    return _short_table("prefetch")


def _short_table(kind: Kind) -> str:
    lines = ["| name | parameters | what it does | source |", "|---|---|---|---|"]
    for row in describe((kind,)):
        listed = "; ".join(f"`{p.name}` = {p.default}: {p.description}" for p in row.parameters) or "none"
        listed = listed.replace("|", "\\|")
        lines.append(f"| `{row.name}` | {listed} | {row.summary} | {row.source} |")
    return "\n".join(lines)
