"""From a policy as written on one line to the policy itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal

from moesim.errors import InputError, nearest, unknown_name
from moesim.scenario.policy_text import Part, PolicyText, at_character, read_policies, read_policy
from moesim.scenario.scenario import Scenario

if TYPE_CHECKING:
    from moesim.policies.base import Policy

Half = Literal["placement", "dispatch"]

_HALVES: Final[tuple[Half, Half]] = ("placement", "dispatch")


def policies_from_text(scenario: Scenario, text: str) -> list[Policy]:
    """Return the policies of a list such as ``ep, llep(alpha=1.2), greedy+lplb``.

    Raises:
        InputError: not such a list, or an unknown policy or parameter; says at which character.
    """
    return [_build(scenario, one) for one in read_policies(text, scenario.policy_names)]


def policy_from_text(scenario: Scenario, text: str) -> Policy:
    """Return one policy as written in such a list.

    Raises:
        InputError: as ``policies_from_text``.
    """
    if not text.strip():
        message = "a policy needs a name"
        raise InputError(message)
    return _build(scenario, read_policy(text, scenario.policy_names))


def every_policy(scenario: Scenario) -> list[Policy]:
    """Return all that there is: the scenario's policies, presets, and what these lack.

    A placement or dispatch policy that none of them has with its defaults comes with standard dispatch or
    contiguous placement.
    """
    from moesim.policies import create_policy, policy_presets
    from moesim.policies.offload.create import offload_presets
    from moesim.policies.registry import policy_types
    from moesim.scenario.policy import build_policies

    found = build_policies(scenario)
    names = {policy.name for policy in found}
    if scenario.workload.requests is not None or any(policy.offload is not None for policy in found):
        return found + [create_policy(name) for name in offload_presets() if name not in names]
    for name in policy_presets():
        policy = create_policy(name)
        if name not in names and not any(_same(policy, other) for other in found):
            found.append(policy)
            names.add(name)
    for half in _HALVES:
        for name in policy_types(half):
            alone = create_policy({half: name})
            if not any(_half(policy, half) == _half(alone, half) for policy in found):
                found.append(alone if name in names else create_policy({"name": name, half: name}))
                names.add(found[-1].name)
    return found


def _half(policy: Policy, half: Half) -> tuple[str, dict[str, Any]]:
    part = getattr(policy, half)
    return part.name, part.parameters.model_dump(mode="json")


def _same(one: Policy, other: Policy) -> bool:
    return one.refresh == other.refresh and all(_half(one, half) == _half(other, half) for half in _HALVES)


def _build(scenario: Scenario, text: PolicyText) -> Policy:
    """Make a policy.

    Raises:
        InputError: an unknown policy or parameter, or a value that does not fit.
    """
    from moesim.policies import create_policy
    from moesim.policies.parameters import PolicyInputError
    from moesim.scenario.policy import build_policy

    if text.plain:
        for section in scenario.spec.policies:
            if section.name == text.text:
                return build_policy(scenario, section)
    mapping = _base(scenario, text)
    owners: tuple[tuple[Part, tuple[Half, ...]], ...] = (
        ((text.parts[0], _HALVES),)
        if len(text.parts) == 1
        else ((text.parts[0], ("placement",)), (text.parts[1], ("dispatch",)))
    )
    for part, halves in owners:
        for key, value in part.parameters.items():
            try:
                _put(mapping, part.name, halves, key, value)
            except InputError as error:
                raise at_character(part.keys_at[key], error) from None
    mapping.setdefault("name", re.sub(r"\s+", " ", text.text))
    try:
        return create_policy(mapping)
    except PolicyInputError as error:
        for part in text.parts:
            for key in error.key:
                if key in part.keys_at:
                    raise at_character(part.keys_at[key], error) from None
        raise


def _base(scenario: Scenario, text: PolicyText) -> dict[str, Any]:
    """Return what names stand for, before parameters.

    Raises:
        InputError: an unknown name.
    """
    from moesim.policies import dispatch_names, placement_names, policy_presets
    from moesim.policies.offload.create import offload_presets
    from moesim.scenario.policy import policy_mapping

    if len(text.parts) == 2:
        where, how = (part.name for part in text.parts)
        for part, half, names in zip(text.parts, _HALVES, (placement_names(), dispatch_names()), strict=True):
            if part.name not in names:
                raise at_character(part.at, unknown_name(f"{half} policy", part.name, names))
        return {"placement": {"kind": where}, "dispatch": {"kind": how}}
    name, presets = text.parts[0].name, policy_presets()
    for section in scenario.spec.policies:
        if section.name == name:
            made = policy_mapping(section)
            kept = {key: made[key] for key in ("refresh", "offload")}
            return {half: dict(made[half]) for half in _HALVES} | kept
    if name in offload_presets():
        kinds = {"placement": {"kind": "contiguous"}, "dispatch": {"kind": "standard"}}
        return kinds | {"offload": {"system": name}}
    if name in presets:
        return {half: {"kind": presets[name][half]} for half in _HALVES}
    if name in placement_names():
        return {"placement": {"kind": name}, "dispatch": {"kind": "standard"}}
    if name in dispatch_names():
        return {"placement": {"kind": "contiguous"}, "dispatch": {"kind": name}}
    everything = {
        *scenario.policy_names,
        *presets,
        *offload_presets(),
        *placement_names(),
        *dispatch_names(),
    }
    error = unknown_name("policy", name, everything)
    raise error if text.plain else at_character(text.parts[0].at, error)


def _put_offload(offload: dict[str, Any], name: str, key: str, value: Any) -> bool:
    """Set a key of an offloading system, or a parameter of the one part that has it; say whether there is
    one.

    Raises:
        InputError: several parts have it.
    """
    from moesim.policies.offload.create import OFFLOAD_PRESETS, PARTS, offload_part
    from moesim.policies.offload.system import OffloadSettings
    from moesim.policies.parameters import takes
    from moesim.policies.registry import Kind, parameters_type

    if key == "system" or key in OffloadSettings.model_fields or key in PARTS:
        offload[key] = value
        return True
    base = OFFLOAD_PRESETS.get(offload.get("system", ""), {})
    made = {part: offload_part(base.get(part), offload.get(part), part) for part in PARTS}
    kinds: dict[str, Kind] = {"cache": "cache", "prefetch": "prefetch", "misses": "misses"}
    able = [part for part, (kind, _) in made.items() if takes(parameters_type(kinds[part], kind), key, value)]
    if len(able) > 1:
        message = f"{' and '.join(able)} of '{name}' all have a parameter '{key}'"
        raise InputError(message, hint=f"write {able[0]}={{kind: {made[able[0]][0]}, {key}: ...}}")
    for part in able:
        kind, parameters = made[part]
        offload[part] = {"kind": kind, **parameters, key: value}
    return bool(able)


def _offload_keys(offload: Mapping[str, Any]) -> list[str]:
    """Return the keys of an offloading system, and the parameters of its parts."""
    from moesim.policies.offload.create import OFFLOAD_PRESETS, PARTS, offload_part
    from moesim.policies.offload.system import OffloadSettings
    from moesim.policies.registry import Kind, parameters_type

    base = OFFLOAD_PRESETS.get(offload.get("system", ""), {})
    kinds: tuple[Kind, ...] = ("cache", "prefetch", "misses")
    names = {*PARTS, *OffloadSettings.model_fields}
    for part in kinds:
        names |= set(
            parameters_type(part, offload_part(base.get(part), offload.get(part), part)[0]).model_fields
        )
    return sorted(names)


def _put(mapping: dict[str, Any], name: str, halves: tuple[Half, ...], key: str, value: Any) -> None:
    """Set a parameter of the half that has it.

    Raises:
        InputError: neither half has it, or both.
    """
    from moesim.policies.parameters import takes
    from moesim.policies.registry import parameters_type

    if key in ("name", "refresh", "offload"):
        mapping[key] = value
        return
    if mapping.get("offload") is not None and _put_offload(mapping["offload"], name, key, value):
        return
    if key in halves and len(halves) > 1:
        half: Half = key
        given = value if isinstance(value, Mapping) else {"kind": value}
        changed = given.get("kind", mapping[half]["kind"]) != mapping[half]["kind"]
        mapping[half] = {**({} if changed else mapping[half]), **given}
        return
    types = {half: parameters_type(half, mapping[half]["kind"]) for half in halves}
    able = [half for half, kind in types.items() if takes(kind, key, value)]
    if len(able) > 1:
        message = f"both the placement and the dispatch policy of '{name}' have a parameter '{key}'"
        raise InputError(message, hint=f"write placement={{{key}: ...}} or dispatch={{{key}: ...}}")
    if not able:
        known = sorted({field for kind in types.values() for field in kind.model_fields})
        if mapping.get("offload") is not None:
            known = _offload_keys(mapping["offload"])
        close = nearest(key, known)
        hint = (
            f"did you mean '{close}'?"
            if close
            else f"known: {', '.join(known)}"
            if known
            else "it takes none"
        )
        raise InputError(f"policy '{name}' has no parameter '{key}'", hint=hint)
    mapping[able[0]][key] = value
