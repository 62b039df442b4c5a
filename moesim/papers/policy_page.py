"""The page of policies, with the published figures that each policy predicts.

Write it again with ``python -m moesim.papers.policy_page > docs/policies.md``.
"""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from typing import Any

from moesim.papers.offloading import OF_SETUP
from moesim.papers.paper import load_paper, paper_names
from moesim.policies.offload.create import offload_presets
from moesim.policies.table import markdown
from moesim.scenario import loads_scenario
from moesim.scenario.policy import build_policy


def reproduced() -> dict[tuple[str, str], str]:
    """Return, by kind and name of a policy, the papers whose points it predicts, and how many points.

    A policy that serves as the baseline of a ratio only is not counted. Of an offloading policy the system
    counts, of kind ``system``, where it is a published one; what needs no run counts nowhere.
    """
    found: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for name in paper_names():
        paper = load_paper(name)
        scenarios = {
            key: loads_scenario(json.dumps(body), file=f"{name}.yaml")
            for key, body in paper.scenarios.items()
        }
        for figure in paper.figures:
            if not figure.scenario or figure.quantity in OF_SETUP:
                continue
            axis = figure.axes.index("policy") if "policy" in figure.axes else None
            for point in figure.points:
                asked = figure.policy if axis is None else str(point[axis])
                policy = build_policy(scenarios[figure.scenario], asked)
                if policy.offload is not None:
                    system = _system(paper.scenarios[figure.scenario]["policies"], asked)
                    if system is not None:
                        found["system", system][name] += 1
                    continue
                found["placement", policy.placement.name][name] += 1
                found["dispatch", policy.dispatch.name][name] += 1
    return {
        key: ", ".join(f"`{paper}` ({points})" for paper, points in counted.items())
        for key, counted in found.items()
    }


def _system(policies: list[Any], asked: str) -> str | None:
    """Return the published system that a policy of a scenario names, if it does."""
    written = [entry for entry in policies if isinstance(entry, dict) and entry["name"] == asked]
    system = written[0].get("offload", {}).get("system", asked) if written else asked
    return str(system) if system in offload_presets() else None


def page() -> str:
    """Return the whole page as Markdown."""
    return markdown(reproduced())


if __name__ == "__main__":
    sys.stdout.write(page())
