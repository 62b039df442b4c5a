"""What can be searched: the typed parameters of a policy, with the range of each.

A range comes, in this order, from the person who asks, from the parameter's own hint
(``json_schema_extra={"tune": [low, high, "log"]}``), or from its bounds where it has both. A hint may name
``experts`` or ``devices`` of the scenario instead of a number. Choices and switches need no range. A hint
``False`` keeps a parameter out of searches that do not name it.
"""

from __future__ import annotations

import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, Final, Literal, Union, get_args, get_origin

from moesim.errors import InputError, nearest
from moesim.tuning.asked import Asked, read_asked

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from moesim.policies.base import ClusterView, Parameters, Policy

Half = Literal["placement", "dispatch", "refresh", "cache", "prefetch", "misses", "offload"]
Value = int | float | str | bool

SIZES: Final = ("slots", "ratio", "memory", "whole_layers")
"""Sizes of an offloading cache, of which a policy has one."""

HINT: Final = "tune"


@dataclass(frozen=True)
class Dimension:
    """One parameter and where to look for its best value.

    Attributes:
        half: whether placement, dispatch or the refreshing of placements has it.
        name: its name.
        default: its value without tuning; None where the policy works it out.
        choices: values to choose from; empty where there is a range.
        low: lower end of the range.
        high: upper end.
        whole: only whole numbers.
        log: search its logarithm.
    """

    half: Half
    name: str
    default: Any
    choices: tuple[Value, ...] = ()
    low: float = 0.0
    high: float = 0.0
    whole: bool = False
    log: bool = False

    @property
    def key(self) -> str:
        """Name with its half, such as ``dispatch.alpha``."""
        return f"{self.half}.{self.name}"

    @property
    def values(self) -> list[Value] | None:
        """All values that there are, None where they cannot be counted."""
        if self.choices:
            return list(self.choices)
        return list(range(int(self.low), int(self.high) + 1)) if self.whole else None

    @property
    def text(self) -> str:
        """The range in words."""
        if self.choices:
            return " | ".join(map(str, self.choices))
        ends = (f"{int(end)}" if self.whole else f"{end:g}" for end in (self.low, self.high))
        return f"{' to '.join(ends)}{', log' if self.log else ''}"

    def contains(self, value: Any) -> bool:
        """Say whether a value lies in the range or among the choices."""
        if self.choices:
            return value in self.choices
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return number and self.low <= value <= self.high


@dataclass(frozen=True)
class Space:
    """What is searched.

    Attributes:
        dimensions: the parameters.
        left_out: the policy's other parameters, with the reason.
    """

    dimensions: tuple[Dimension, ...]
    left_out: Mapping[str, str]

    def grid(self, most: int) -> list[dict[str, Value]] | None:
        """Return all settings that there are, None where they are more than ``most``."""
        values = [one.values for one in self.dimensions]
        if any(one is None for one in values):
            return None
        lists = [one for one in values if one is not None]
        if math.prod(len(one) for one in lists) > most:
            return None
        keys = [one.key for one in self.dimensions]
        return [dict(zip(keys, chosen, strict=True)) for chosen in product(*lists)]


def space_of(
    policy: Policy,
    view: ClusterView,
    asked: Sequence[str] | None = None,
    fixed: frozenset[str] = frozenset(),
) -> Space:
    """Return the parameters of a policy that can be searched.

    Args:
        policy: whose parameters, with the values that they have without tuning.
        view: the machine, for ranges that depend on it.
        asked: parameters to search, each a name with or without its half, and maybe a range as in
            ``alpha=0.8:2:log``; all by default.
        fixed: parameters (``half.name``) that are not searched unless asked for.

    Raises:
        InputError: an unknown parameter or one without a range is asked for, a range that does not fit, or
            nothing is left to search.
    """
    fields = _fields(policy)
    if asked is not None:
        chosen = [read_asked(text) for text in asked]
        found = [_asked_for(policy, fields, one, view) for one in chosen]
        keys = [one.key for one in found]
        for place, key in enumerate(keys):
            if key in keys[:place]:
                message = f"parameter '{key}' is there twice"
                raise InputError(message, "--parameters")
        others = {key: "not asked for" for key in fields if key not in keys}
        return Space(tuple(found), others)
    dimensions, left_out = [], {}
    for key, (half, field, default) in fields.items():
        if key in fixed:
            left_out[key] = "has the value that was given"
            continue
        name = key.partition(".")[2]
        made = _dimension(half, name, field, default, view)
        if half == "offload" and name in SIZES and default is None:
            made = "the size of the cache is given otherwise"
        if isinstance(made, str):
            left_out[key] = made
        else:
            dimensions.append(made)
    if not dimensions:
        message = f"policy '{policy.name}' has nothing to tune"
        why = "; ".join(f"{key}: {reason}" for key, reason in left_out.items()) or "it has no parameters"
        raise InputError(message, hint=why)
    return Space(tuple(dimensions), left_out)


def parts_of(policy: Policy) -> dict[Half, tuple[str, Parameters]]:
    """Return the kind and the parameters of every part of a policy; settings as a whole have no kind."""
    found: dict[Half, tuple[str, Parameters]] = {
        "placement": (policy.placement.name, policy.placement.parameters),
        "dispatch": (policy.dispatch.name, policy.dispatch.parameters),
    }
    if policy.refresh is not None:
        found["refresh"] = ("", policy.refresh)
    if policy.offload is not None:
        offload = policy.offload
        found["cache"] = (offload.cache.name, offload.cache.parameters)
        found["prefetch"] = (offload.prefetch.name, offload.prefetch.parameters)
        found["misses"] = (offload.misses.name, offload.misses.parameters)
        found["offload"] = ("", offload.settings)
    return found


def _fields(policy: Policy) -> dict[str, tuple[Half, FieldInfo, Any]]:
    found: dict[str, tuple[Half, FieldInfo, Any]] = {}
    for half, (_, parameters) in parts_of(policy).items():
        for name, field in type(parameters).model_fields.items():
            found[f"{half}.{name}"] = (half, field, getattr(parameters, name))
    return found


def _asked_for(
    policy: Policy, fields: Mapping[str, tuple[Half, FieldInfo, Any]], asked: Asked, view: ClusterView
) -> Dimension:
    """Return a parameter that was asked for.

    Raises:
        InputError: it does not exist, or has no range and none was given.
    """
    matching = [key for key in fields if asked.name in (key, key.partition(".")[2])]
    if not matching:
        names = [key.partition(".")[2] for key in fields]
        close = nearest(asked.name, names)
        hint = (
            f"did you mean '{close}'?" if close else f"known: {', '.join(names)}" if names else "it has none"
        )
        message = f"policy '{policy.name}' has no parameter '{asked.name}'"
        raise InputError(message, "--parameters", hint=hint)
    if len(matching) > 1:
        owners = " and ".join(key.partition(".")[0] for key in matching)
        message = f"{owners} {'both' if len(matching) == 2 else 'all'} have a parameter '{asked.name}'"
        raise InputError(message, "--parameters", hint=f"write {' or '.join(matching)}")
    half, field, default = fields[matching[0]]
    name = matching[0].partition(".")[2]
    made = _dimension(half, name, field, default, view, asked.span)
    if isinstance(made, str):
        message = f"parameter '{name}' cannot be searched: {made}"
        raise InputError(
            message, "--parameters", hint=f"give a range, for example {name}=LOW:HIGH or {name}=LOW:HIGH:log"
        )
    return made


def _dimension(
    half: Half,
    name: str,
    field: FieldInfo,
    default: Any,
    view: ClusterView,
    given: tuple[float, float, bool] | None = None,
) -> Dimension | str:
    """Return a parameter with its range, or what keeps it from being searched.

    Raises:
        InputError: the given range lies outside the parameter's bounds.
    """
    kind = _plain_type(field.annotation)
    extra = field.json_schema_extra
    hint = extra.get(HINT) if isinstance(extra, dict) else None
    if hint is False and given is None:
        return "it is no matter of speed"
    if kind is bool or get_origin(kind) is Literal:
        if given is not None:
            message = f"parameter '{name}' has choices, not a range"
            raise InputError(message, "--parameters")
        return Dimension(half, name, default, (False, True) if kind is bool else get_args(kind))
    if kind not in (int, float):
        return "it is not a number, a choice or a switch"
    bounds = _bounds(field, kind is int)
    if given is not None:
        low, high, log = given
        if low < bounds[0] or high > bounds[1] or (kind is int and (low % 1 or high % 1)):
            message = f"the range {low:g}:{high:g} does not fit '{name}'"
            limits = f"{'whole numbers ' if kind is int else ''}from {bounds[0]:g} to {bounds[1]:g}"
            raise InputError(message, "--parameters", hint=f"it takes {limits}")
    elif isinstance(hint, (list, tuple)) and len(hint) in (2, 3):
        low, high = (_number(end, view) for end in hint[:2])
        log = list(hint[2:]) == ["log"]
    elif all(math.isfinite(bound) for bound in bounds):
        low, high = bounds
        log = low > 0 and high / low >= _WIDE
    else:
        return "its range is open"
    if log and low <= 0:
        message = f"a logarithmic range of '{name}' begins above 0"
        raise InputError(message, "--parameters")
    return (
        Dimension(half, name, default, (), low, high, kind is int, log)
        if low < high
        else "its range is empty"
    )


def _number(end: Any, view: ClusterView) -> float:
    """Read an end of a hint: a number, or what the machine has so many of."""
    return float(getattr(view, end) if isinstance(end, str) else end)


_WIDE: Final = 100.0
"""Ranges whose ends differ by this factor are searched by their logarithm."""


def _plain_type(annotation: Any) -> Any:
    """Strip None and metadata from a type."""
    if get_origin(annotation) in (Union, types.UnionType):
        rest = [kind for kind in get_args(annotation) if kind is not type(None)]
        return _plain_type(rest[0]) if len(rest) == 1 else None
    if hasattr(annotation, "__metadata__"):
        return _plain_type(get_args(annotation)[0])
    return annotation


def _bounds(field: FieldInfo, whole: bool) -> tuple[float, float]:
    """Return the least and the largest number that a field takes, infinite where there is none."""
    low, high = -math.inf, math.inf
    for rule in field.metadata:
        above, below = getattr(rule, "gt", None), getattr(rule, "lt", None)
        low, high = max(low, getattr(rule, "ge", low)), min(high, getattr(rule, "le", high))
        if above is not None:
            low = max(low, math.floor(above) + 1 if whole else math.nextafter(above, math.inf))
        if below is not None:
            high = min(high, math.ceil(below) - 1 if whole else math.nextafter(below, -math.inf))
    return float(low), float(high)
