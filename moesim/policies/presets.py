"""Policies as users name them: a placement and a dispatch policy together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

from moesim.errors import unknown_name
from moesim.policies.base import Policy
from moesim.policies.offload.create import OFFLOAD_PRESETS, create_offload
from moesim.policies.offload.system import Offload
from moesim.policies.parameters import PolicyInputError, read_parameters, unknown_key
from moesim.policies.refresh import Refresh
from moesim.policies.registry import Kind, create_dispatch, create_placement

_PRESETS: Final[Mapping[str, Mapping[str, str]]] = {
    "ep": {"placement": "contiguous", "dispatch": "standard"},
    "eplb": {"placement": "eplb", "dispatch": "standard"},
    "eplb_online": {"placement": "eplb_online", "dispatch": "standard"},
    "eplb_vec": {"placement": "eplb_vec", "dispatch": "standard"},
    "flexmoe": {"placement": "flexmoe", "dispatch": "standard"},
    "llep": {"placement": "contiguous", "dispatch": "llep"},
    "round_robin": {"placement": "round_robin", "dispatch": "standard"},
    "greedy": {"placement": "greedy", "dispatch": "standard"},
    "moetuner": {"placement": "moetuner", "dispatch": "standard"},
    "exflow": {"placement": "exflow", "dispatch": "standard"},
    "occult": {"placement": "occult", "dispatch": "standard"},
    "grace": {"placement": "grace", "dispatch": "standard"},
    "eplb_llep": {"placement": "eplb", "dispatch": "llep"},
    "lplb": {"placement": "eplb", "dispatch": "lplb"},
    "metro": {"placement": "eplb", "dispatch": "metro"},
    "capacity": {"placement": "contiguous", "dispatch": "capacity"},
    "fastermoe": {"placement": "contiguous", "dispatch": "fastermoe"},
    "harmoeny": {"placement": "contiguous", "dispatch": "harmoeny"},
    "janus": {"placement": "contiguous", "dispatch": "janus"},
    "lina": {"placement": "contiguous", "dispatch": "lina"},
    "prophet": {"placement": "contiguous", "dispatch": "prophet"},
}
_DEFAULTS: Final[Mapping[Kind, str]] = {"placement": "contiguous", "dispatch": "standard"}
_KEYS: Final = ("name", "placement", "dispatch", "refresh", "offload")


def policy_presets() -> dict[str, dict[str, str]]:
    """Return the placement and dispatch policy that each preset stands for."""
    return {name: dict(parts) for name, parts in _PRESETS.items()}


def _part(given: Mapping[str, Any], kind: Kind) -> tuple[str, dict[str, Any]]:
    """Read one half of a policy: a name, or a mapping with ``kind`` and parameters."""
    value = given.get(kind, _DEFAULTS[kind])
    if isinstance(value, str):
        return value, {}
    if isinstance(value, Mapping):
        parameters = {str(key): item for key, item in value.items()}
        name = parameters.pop("kind", None)
        if isinstance(name, str):
            return name, parameters
        message = f"the {kind} policy needs a 'kind', its name"
        raise PolicyInputError(message, hint=f"for example kind: {_DEFAULTS[kind]}", key=(kind,))
    message = f"'{kind}' must be the name of a policy or a mapping with 'kind' and parameters, got {value!r}"
    raise PolicyInputError(message, key=(kind,))


def _refresh(value: Any) -> Refresh | None:
    """Read how the placement is kept up to date."""
    if value is None or isinstance(value, Refresh):
        return value
    if not isinstance(value, Mapping):
        message = f"'refresh' must be a mapping with 'every', got {value!r}"
        raise PolicyInputError(message, key=("refresh",))
    try:
        return cast("Refresh", read_parameters("refresh", Refresh, value))
    except PolicyInputError as error:
        raise error.under("refresh") from None


def _offload(value: Any) -> Offload | None:
    """Read how experts come from host memory or a drive."""
    if value is None or isinstance(value, Offload):
        return value
    try:
        return create_offload(value)
    except PolicyInputError as error:
        raise error.under("offload") from None


def create_policy(given: str | Mapping[str, Any]) -> Policy:
    """Make a policy from the name of a preset or from a mapping.

    Args:
        given: a preset such as ``eplb`` or ``hobbit``, or ``{name, placement, dispatch, refresh, offload}``
            where each half is a name or a mapping with ``kind`` and parameters; a missing half is
            contiguous or standard. ``refresh`` has the parameters of ``Refresh``, ``offload`` is what
            ``create_offload`` takes.

    Raises:
        InputError: an unknown preset, policy or key, or a value that does not fit; a
            ``PolicyInputError`` knows which key.
    """
    if isinstance(given, str):
        if given in OFFLOAD_PRESETS:
            return create_policy({"name": given, "offload": given})
        if given not in _PRESETS:
            raise unknown_name("policy", given, [*_PRESETS, *OFFLOAD_PRESETS])
        return create_policy({"name": given, **_PRESETS[given]})
    if not isinstance(given, Mapping):
        message = f"a policy is the name of a preset or a mapping with {', '.join(_KEYS)}, got {given!r}"
        raise PolicyInputError(message)
    for key in given:
        if key not in _KEYS:
            raise unknown_key("a policy", str(key), list(_KEYS))
    where, placement = _part(given, "placement")
    how, dispatch = _part(given, "dispatch")
    name = given.get("name", f"{where}+{how}")
    if not isinstance(name, str) or not name.strip():
        message = f"the name of a policy is a text, got {name!r}"
        raise PolicyInputError(message, key=("name",))
    try:
        placed = create_placement(where, placement)
    except PolicyInputError as error:
        raise error.under("placement") from None
    try:
        dispatched = create_dispatch(how, dispatch)
    except PolicyInputError as error:
        raise error.under("dispatch") from None
    return Policy(name, placed, dispatched, _refresh(given.get("refresh")), _offload(given.get("offload")))
