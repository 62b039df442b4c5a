"""From the scenario's list of policies to the policies themselves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from moesim.errors import unknown_name
from moesim.scenario.how import OffloadPart, OffloadSection, PolicyPart, PolicySection
from moesim.scenario.locate import located
from moesim.scenario.scenario import Scenario

if TYPE_CHECKING:
    from moesim.policies.base import Policy


def build_policy(scenario: Scenario, policy: str | PolicySection) -> Policy:
    """Return one policy.

    Args:
        scenario: whose policies are meant.
        policy: one of its sections, or a name: of one of the scenario's policies, else of a preset, a
            placement or a dispatch policy; parameters and combinations as in ``llep(alpha=1.2)`` and
            ``eplb+llep``.

    Raises:
        InputError: an unknown name, or a parameter that does not exist or does not fit.
    """
    from moesim.policies import create_policy
    from moesim.scenario.policy_named import policy_from_text

    if isinstance(policy, str):
        return policy_from_text(scenario, policy)
    with located(scenario, _path(scenario, policy)):
        return create_policy(policy_mapping(policy))


def build_policies(scenario: Scenario, names: Iterable[str] | None = None) -> list[Policy]:
    """Return the policies to compare: all of the scenario's, or those named (presets too).

    Raises:
        InputError: as ``build_policy``.
    """
    chosen: Iterable[str | PolicySection] = scenario.spec.policies if names is None else names
    return [build_policy(scenario, policy) for policy in chosen]


def resolved_policy(scenario: Scenario, section: PolicySection) -> dict[str, Any]:
    """Return a policy with every parameter spelled out, as plain JSON data.

    Raises:
        InputError: as ``build_policy``.
    """
    policy = build_policy(scenario, section)
    placement, dispatch = policy.placement, policy.dispatch
    written = {
        "name": policy.name,
        "placement": {"kind": placement.name} | placement.parameters.model_dump(mode="json"),
        "dispatch": {"kind": dispatch.name} | dispatch.parameters.model_dump(mode="json"),
    }
    if policy.refresh is not None:
        written["refresh"] = policy.refresh.model_dump(mode="json")
    if policy.offload is not None:
        written["offload"] = policy.offload.described()
    return written


def _path(scenario: Scenario, section: PolicySection) -> tuple[str | int, ...]:
    for index, known in enumerate(scenario.spec.policies):
        if known is section:
            return ("policies", index)
    return ("policies",)


def policy_mapping(section: PolicySection) -> dict[str, Any]:
    """Write a section as ``create_policy`` reads it, a preset's parts filled in.

    Raises:
        InputError: nothing but a name, and no preset has it.
    """
    from moesim.policies import policy_presets
    from moesim.policies.offload.create import offload_presets

    presets = policy_presets()
    system = section.name if section.name in offload_presets() else None
    bare = section.placement is None and section.dispatch is None and section.offload is None
    if section.name not in presets and system is None and bare:
        raise unknown_name("policy", section.name, [*presets, *offload_presets()])
    preset = presets.get(section.name, presets["ep"])
    return {
        "name": section.name,
        "placement": _part(section.placement, preset["placement"]),
        "dispatch": _part(section.dispatch, preset["dispatch"]),
        "refresh": None if section.refresh is None else section.refresh.model_dump(),
        "offload": _offload(section.offload, system),
    }


def _offload(section: OffloadSection | None, system: str | None) -> dict[str, Any] | None:
    """Write an offloading system as ``create_offload`` reads it; a policy named like a system is it."""
    from moesim.policies.offload.create import PARTS

    if section is None:
        return None if system is None else {"system": system}
    written: dict[str, Any] = section.model_dump(exclude=set(PARTS), exclude_none=True)
    if system is not None:
        written.setdefault("system", system)
    for name in PARTS:
        part: OffloadPart | None = getattr(section, name)
        if part is not None:
            written[name] = {**part.others, **({} if part.kind is None else {"kind": part.kind})}
    return written


def _part(part: PolicyPart | None, preset: str) -> dict[str, Any]:
    if part is None:
        return {"kind": preset}
    return {**part.others, "kind": part.kind or preset}
