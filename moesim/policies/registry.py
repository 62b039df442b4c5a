"""Policies by name, found through Python entry points; built-in ones come in by the same door.

A package offers a policy under the entry-point group ``moesim.placement``, ``moesim.dispatch``,
``moesim.cache``, ``moesim.prefetch`` or ``moesim.misses``. Only names of installed entry points can be
asked for: nothing that a user writes is ever imported.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final, Literal, cast

from moesim.errors import InputError, PluginWarning, unknown_name
from moesim.policies.base import DispatchPolicy, Parameters, PlacementPolicy
from moesim.policies.cache.base import CachePolicy
from moesim.policies.misses.base import MissPolicy
from moesim.policies.parameters import read_parameters
from moesim.policies.prefetch.base import PrefetchPolicy

Kind = Literal["placement", "dispatch", "cache", "prefetch", "misses"]

GROUPS: Final[Mapping[Kind, str]] = {
    "placement": "moesim.placement",
    "dispatch": "moesim.dispatch",
    "cache": "moesim.cache",
    "prefetch": "moesim.prefetch",
    "misses": "moesim.misses",
}
_DECIDES: Final[Mapping[Kind, str]] = {
    "placement": "place",
    "dispatch": "plan",
    "cache": "start",
    "prefetch": "start",
    "misses": "choose",
}
_ALSO: Final[Mapping[Kind, tuple[str, ...]]] = {
    "dispatch": ("planning_seconds",),
    "cache": ("sizes", "precisions"),
    "prefetch": ("seconds",),
}
_TEXTS: Final = ("name", "summary", "source")


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else "an unnamed package"


@cache
def _entries(kind: Kind) -> dict[str, EntryPoint]:
    """Find the entry points of a kind; of two with one name, the built-in or the first wins."""
    found: dict[str, EntryPoint] = {}
    for entry in sorted(
        entry_points(group=GROUPS[kind]), key=lambda e: (_package(e) != "moesim", _package(e))
    ):
        taken = found.setdefault(entry.name, entry)
        if taken is not entry and (taken.value, _package(taken)) != (entry.value, _package(entry)):
            message = (
                f"two packages register the {kind} policy '{entry.name}': {_package(taken)} ({taken.value})"
                f" is used, {_package(entry)} ({entry.value}) is not"
            )
            warnings.warn(message, PluginWarning, stacklevel=2)
    if not any(_package(entry) == "moesim" for entry in found.values()):
        message = f"moesim's own {kind} policies are not registered"
        raise InputError(message, hint="install the package: pip install -e .")
    return found


def _flaw(kind: Kind, name: str, loaded: object) -> str | None:
    """Say what keeps an object from being a policy, or None."""
    if not isinstance(loaded, type):
        return "it is not a class"
    if missing := [text for text in _TEXTS if not isinstance(getattr(loaded, text, None), str)]:
        return f"it lacks the text '{missing[0]}'"
    if getattr(loaded, "name", None) != name:
        return f"it calls itself '{getattr(loaded, 'name', None)}'"
    parameters = getattr(loaded, "parameters_type", None)
    if not (isinstance(parameters, type) and issubclass(parameters, Parameters)):
        return "its parameters_type is not a subclass of moesim.policies.base.Parameters"
    needed = [_DECIDES[kind], *_ALSO.get(kind, ())]
    if missing := [method for method in needed if not callable(getattr(loaded, method, None))]:
        return f"it has no method '{missing[0]}'"
    if kind == "dispatch" and not isinstance(getattr(loaded, "exact", None), bool):
        return "it does not say whether it is exact"
    if kind == "prefetch" and not isinstance(getattr(loaded, "given", None), bool):
        return "it does not say whether its accuracy is given"
    if kind in ("prefetch", "misses") and not isinstance(getattr(loaded, "exact", None), bool):
        return "it does not say whether it is exact"
    if kind == "misses" and not isinstance(getattr(loaded, "uses_cpu", None), bool):
        return "it does not say whether it uses the CPU"
    return None


@cache
def _load(kind: Kind, name: str) -> type:
    """Import a policy class by its registered name.

    Raises:
        InputError: unknown name, or the plug-in cannot be used.
    """
    entries = _entries(kind)
    if name not in entries:
        raise unknown_name(f"{kind} policy", name, entries)
    entry = entries[name]
    try:
        loaded = entry.load()
        flaw = _flaw(kind, name, loaded)
    except (Exception, SystemExit) as error:  # a module may also end the process when it is imported
        flaw = f"{type(error).__name__}: {error}"
    if flaw:
        message = f"the {kind} policy '{name}' ({entry.value}, from {_package(entry)}) cannot be used: {flaw}"
        raise InputError(message)
    return cast("type", loaded)


def policy_types(kind: Kind) -> dict[str, type]:
    """Return the usable policy classes of a kind by name; a broken plug-in gives a warning naming it."""
    usable: dict[str, type] = {}
    for name in sorted(_entries(kind)):
        try:
            usable[name] = _load(kind, name)
        except InputError as error:
            warnings.warn(str(error), PluginWarning, stacklevel=2)
    return usable


def placement_names() -> list[str]:
    """Return the registered placement policies, without importing them."""
    return sorted(_entries("placement"))


def dispatch_names() -> list[str]:
    """Return the registered dispatch policies, without importing them."""
    return sorted(_entries("dispatch"))


def cache_names() -> list[str]:
    """Return the registered cache policies, without importing them."""
    return sorted(_entries("cache"))


def prefetch_names() -> list[str]:
    """Return the registered prefetch policies, without importing them."""
    return sorted(_entries("prefetch"))


def parameters_type(kind: Kind, name: str) -> type[Parameters]:
    """Return the parameter model of a policy.

    Raises:
        InputError: unknown name, or a plug-in that cannot be used.
    """
    return cast("type[Parameters]", _load(kind, name).parameters_type)  # type: ignore[attr-defined]


def _create(kind: Kind, name: str, parameters: Mapping[str, Any] | None) -> Any:
    found = _load(kind, name)
    return found(read_parameters(f"{kind} policy '{name}'", found.parameters_type, parameters or {}))  # type: ignore[attr-defined]


def create_placement(name: str, parameters: Mapping[str, Any] | None = None) -> PlacementPolicy:
    """Make a placement policy.

    Raises:
        InputError: unknown name, unknown or wrong parameter, or a plug-in that cannot be used.
    """
    return cast("PlacementPolicy", _create("placement", name, parameters))


def create_dispatch(name: str, parameters: Mapping[str, Any] | None = None) -> DispatchPolicy:
    """Make a dispatch policy.

    Raises:
        InputError: unknown name, unknown or wrong parameter, or a plug-in that cannot be used.
    """
    return cast("DispatchPolicy", _create("dispatch", name, parameters))


def create_cache(name: str, parameters: Mapping[str, Any] | None = None) -> CachePolicy:
    """Make a cache policy.

    Raises:
        InputError: unknown name, unknown or wrong parameter, or a plug-in that cannot be used.
    """
    return cast("CachePolicy", _create("cache", name, parameters))


def create_prefetch(name: str, parameters: Mapping[str, Any] | None = None) -> PrefetchPolicy:
    """Make a prefetch policy.

    Raises:
        InputError: unknown name, unknown or wrong parameter, or a plug-in that cannot be used.
    """
    return cast("PrefetchPolicy", _create("prefetch", name, parameters))


def misses_names() -> list[str]:
    """Return the registered miss policies, without importing them."""
    return sorted(_entries("misses"))


def create_misses(name: str, parameters: Mapping[str, Any] | None = None) -> MissPolicy:
    """Make a miss policy.

    Raises:
        InputError: unknown name, unknown or wrong parameter, or a plug-in that cannot be used.
    """
    return cast("MissPolicy", _create("misses", name, parameters))
