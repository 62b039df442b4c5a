"""The generators by name."""

from __future__ import annotations

from typing import Final

from moesim.errors import InputError, unknown_name
from moesim.routing.generators.affinity import AffinityGenerator
from moesim.routing.generators.base import Generator, Shape
from moesim.routing.generators.hot_experts import HotExperts
from moesim.routing.generators.local import LocalGenerator
from moesim.routing.generators.parameters import GeneratorParameters, read_parameters
from moesim.routing.generators.popularity import Dirichlet, Uniform, Zipf
from moesim.routing.generators.totals import Counts, PowerLaw

_KINDS: Final[dict[str, type[Generator]]] = {
    kind.kind: kind
    for kind in (HotExperts, Uniform, Zipf, Dirichlet, PowerLaw, Counts, AffinityGenerator, LocalGenerator)
}


def generator_kinds() -> list[str]:
    """Return the names of the generators, sorted."""
    return sorted(_KINDS)


def generator_parameters(kind: str) -> type[GeneratorParameters]:
    """Return the parameter model of a generator, for validation, schema and reference docs.

    Raises:
        InputError: no such generator.
    """
    return _kind(kind).parameters_model


def create_generator(
    kind: str, *, experts: int, top_k: int, layers: int, seed: int, **parameters: object
) -> Generator:
    """Make a routing source from a rule.

    Args:
        kind: one of ``generator_kinds()``.
        experts: routed experts per layer.
        top_k: copies that each token sends into each layer.
        layers: MoE layers.
        seed: of the whole run; the same seed gives the same bits in any order of calls.
        parameters: of that generator, see ``generator_parameters``.

    Raises:
        InputError: an unknown kind or parameter, or a value out of range.
    """
    made = _kind(kind)
    for name, value in (("experts", experts), ("top_k", top_k), ("layers", layers), ("seed", seed)):
        if isinstance(value, bool) or not isinstance(value, int):
            message = f"{name} must be a whole number, got {value!r}"
            raise InputError(message)
    shape = Shape(experts, top_k, layers, seed)
    return made(shape, read_parameters(kind, made.parameters_model, parameters))


def _kind(kind: str) -> type[Generator]:
    if kind not in _KINDS:
        raise unknown_name("generator", kind, _KINDS)
    return _KINDS[kind]
