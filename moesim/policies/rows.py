"""The registered policies as rows, for listings and documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic.fields import FieldInfo

from moesim.policies.base import Parameters
from moesim.policies.registry import Kind, policy_types


@dataclass(frozen=True)
class ParameterRow:
    """A parameter: its name, its default as text, and what it means."""

    name: str
    default: str
    description: str


@dataclass(frozen=True)
class PolicyRow:
    """A registered policy.

    Attributes:
        kind: ``placement``, ``dispatch``, ``cache`` or ``prefetch``.
        name: name in scenarios.
        exact: whether the output of the model stays the same; true of every placement.
        parameters: its parameters in order.
        summary: what it does.
        source: where it comes from.
        needs: what it must know or have beyond the step itself; empty where the policy does not say.
    """

    kind: str
    name: str
    exact: bool
    parameters: tuple[ParameterRow, ...]
    summary: str
    source: str
    needs: str = ""


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    return f"{value:g}" if isinstance(value, float) else str(value)


def parameter_rows(kind: type[Parameters]) -> tuple[ParameterRow, ...]:
    """Return the parameters of a policy or predictor in order."""
    return tuple(
        ParameterRow(name, _default(field), field.description or "")
        for name, field in kind.model_fields.items()
    )


def describe(kinds: Sequence[Kind] = ("placement", "dispatch")) -> list[PolicyRow]:
    """Return one row per registered policy of some kinds, in their order, by name."""
    return [
        PolicyRow(
            kind,
            name,
            bool(getattr(found, "exact", True)),
            parameter_rows(found.parameters_type),  # type: ignore[attr-defined]
            found.summary,  # type: ignore[attr-defined]
            found.source,  # type: ignore[attr-defined]
            str(getattr(found, "needs", "")),
        )
        for kind in kinds
        for name, found in policy_types(kind).items()
    ]
