"""Offloading systems by name, and from mappings as scenarios write them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, cast

from moesim.errors import InputError, unknown_name
from moesim.policies.offload.system import Offload, OffloadSettings
from moesim.policies.parameters import PolicyInputError, read_parameters, unknown_key
from moesim.policies.registry import create_cache, create_misses, create_prefetch

PARTS: Final = ("cache", "prefetch", "misses")
"""Kinds of policies in an offloading system."""

_DEFAULTS: Final = {"cache": "lru", "prefetch": "none", "misses": "load"}

_SIZES: Final = ("slots", "ratio", "memory", "whole_layers")

OFFLOAD_PRESETS: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "resident": {"ratio": 1.0},
        "on_demand": {},
        "mixtral_offloading": {"prefetch": {"kind": "gate", "top": 2}},
        "hobbit": {"cache": "hobbit", "prefetch": {"kind": "gate", "lookahead": 2}},
        "hybrimoe": {"cache": "mrs", "prefetch": "impact", "misses": "hybrimoe", "compute": "arrival"},
        "fiddler": {"cache": "static", "misses": "fiddler", "compute": "arrival"},
        "ktransformers": {"cache": "static", "misses": "cpu", "compute": "arrival"},
        "moe_infinity": {"cache": "moe_infinity", "prefetch": "matrices", "scope": "global"},
        "edgemoe": {
            "cache": "edgemoe",
            "prefetch": "path",
            "scope": "global",
            "narrow_share": 0.5,
            "narrow_size": 0.5,
        },
        "expertflow": {"cache": "expertflow", "prefetch": "oneshot", "compute": "arrival"},
        "promoe": {"prefetch": "learned", "chunks": 3, "compute": "arrival"},
        "daop": {"cache": "lfu", "misses": "daop", "compute": "arrival"},
        "adapmoe": {"cache": "adapmoe", "prefetch": "gate"},
        "pregated": {"prefetch": "pregated"},
        "fmoe": {"cache": "lfu", "prefetch": "history", "compute": "arrival"},
        "layer_streaming": {
            "cache": "stream",
            "prefetch": "layers",
            "misses": "whole_layer",
            "scope": "global",
            "whole_layers": 2,
        },
    }
)
"""Systems as published, in parts; all of them take every other key of an offloading system too."""


def offload_presets() -> list[str]:
    """Return the names of the offloading systems."""
    return list(OFFLOAD_PRESETS)


def create_offload(given: str | Mapping[str, Any]) -> Offload:
    """Make an offloading system.

    Args:
        given: the name of one of ``offload_presets()``, or ``{system, cache, prefetch, misses, ...}``:
            parts are names or mappings with ``kind`` and parameters, other keys those of
            ``OffloadSettings``. What is not said is as in ``system``, or LRU, no prefetch, and loading
            what is missing.

    Raises:
        InputError: an unknown name or key, or a value that does not fit; a ``PolicyInputError`` knows
            which key.
    """
    written: dict[str, Any] = {"system": given} if isinstance(given, str) else dict(given)
    if not isinstance(given, (str, Mapping)):
        message = f"'offload' is the name of a system or a mapping, got {given!r}"
        raise PolicyInputError(message, key=("offload",))
    name = written.pop("system", None)
    if name is not None and name not in OFFLOAD_PRESETS:
        error = unknown_name("offloading system", str(name), OFFLOAD_PRESETS)
        raise PolicyInputError(error.message, hint=error.hint, key=("system",))
    base = dict(OFFLOAD_PRESETS.get(name, {})) if name is not None else {}
    sized = any(written.get(key) is not None for key in _SIZES)
    if sized:
        for key in _SIZES:
            base.pop(key, None)
    mixed = base | {key: value for key, value in written.items() if value is not None}
    known = [*PARTS, *OffloadSettings.model_fields, "system"]
    for key in mixed:
        if key not in known:
            raise unknown_key("an offloading system", str(key), known)
    makers: dict[str, Callable[..., Any]] = {
        "cache": create_cache,
        "prefetch": create_prefetch,
        "misses": create_misses,
    }
    parts: dict[str, Any] = {}
    for part, make in makers.items():
        mixed.pop(part, None)
        kind, parameters = offload_part(base.get(part), written.get(part), part)
        try:
            parts[part] = make(kind, parameters)
        except PolicyInputError as error:
            raise error.under(part) from None
        except InputError as error:
            raise PolicyInputError(error.message, hint=error.hint, key=(part,)) from None
    settings = cast("OffloadSettings", read_parameters("offload", OffloadSettings, mixed))
    return Offload(parts["cache"], parts["prefetch"], parts["misses"], settings)


def offload_part(base: Any, given: Any, part: str) -> tuple[str, dict[str, Any]]:
    """Return kind and parameters of a part.

    Args:
        base: what the system says of it, if anything.
        given: what was written, if anything; a mapping without ``kind`` changes the system's own part.
        part: one of ``PARTS``.

    Raises:
        PolicyInputError: neither a name nor a mapping.
    """
    kind, parameters = _read(_DEFAULTS[part] if base is None else base, part)
    if given is None:
        return kind, parameters
    if isinstance(given, Mapping) and given.get("kind") is None:
        return kind, parameters | {str(key): value for key, value in given.items() if key != "kind"}
    return _read(given, part)


def _read(value: Any, part: str) -> tuple[str, dict[str, Any]]:
    if isinstance(value, str):
        return value, {}
    if isinstance(value, Mapping) and isinstance(value.get("kind"), str):
        return value["kind"], {str(key): item for key, item in value.items() if key != "kind"}
    message = f"'{part}' must be the name of a policy or a mapping with 'kind' and parameters, got {value!r}"
    raise PolicyInputError(message, key=(part,))
