"""Which parameters a policy's text gives, and so are not to be searched."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moesim.scenario.policy import build_policy
from moesim.scenario.policy_text import read_policy
from moesim.tuning.space import parts_of

if TYPE_CHECKING:
    from moesim.policies.base import Policy
    from moesim.scenario import Scenario


def given_settings(scenario: Scenario, text: str, policy: Policy) -> frozenset[str]:
    """Return the parameters (``half.name``) that stand in a policy's text.

    Those of a scenario's own policy are where the search begins, not given.

    Args:
        scenario: whose policies are meant.
        text: what was written.
        policy: the policy that it makes.
    """
    parts = read_policy(text, scenario.policy_names).parts
    if not any(part.parameters for part in parts):
        return frozenset()
    bare = build_policy(scenario, "+".join(part.name for part in parts))
    found = set()
    others = parts_of(bare)
    for half, (kind, mine) in parts_of(policy).items():
        if half == "refresh":
            continue
        same = half in others and others[half][0] == kind
        before = others[half][1] if same else type(mine)()
        for name in mine.model_fields_set:
            if name not in before.model_fields_set or getattr(mine, name) != getattr(before, name):
                found.add(f"{half}.{name}")
    return frozenset(found)
