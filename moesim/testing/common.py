"""What the checks of placement and dispatch policies have in common."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import numpy as np

from moesim.errors import InputError
from moesim.policies.base import Parameters

T = TypeVar("T")


def require(condition: bool, policy: Any, case: str, what: str) -> None:
    """Fail with a sentence that names the policy, the case and what is wrong.

    Raises:
        AssertionError: the condition does not hold.
    """
    if not condition:
        name = getattr(policy, "name", type(policy).__name__)
        message = f"policy '{name}', {case}: {what}"
        raise AssertionError(message)


def leaves(value: Any) -> list[Any]:
    """Flatten nested dataclasses into arrays and plain values, in field order."""
    if is_dataclass(value) and not isinstance(value, type):
        return [leaf for field in fields(value) for leaf in leaves(getattr(value, field.name))]
    return [value]


def same(left: Any, right: Any) -> bool:
    """Compare two results exactly, arrays by shape, type and values."""
    mine, theirs = leaves(left), leaves(right)
    return len(mine) == len(theirs) and all(
        type(a) is type(b)
        and (a.dtype == b.dtype and np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b)
        for a, b in zip(mine, theirs, strict=True)
    )


def check_description(policy: Any) -> None:
    """Check the texts and parameters that listings and documents show."""
    for text in ("name", "summary", "source"):
        value = getattr(policy, text, None)
        require(isinstance(value, str) and bool(value.strip()), policy, "description", f"'{text}' is empty")
    kind = getattr(policy, "parameters_type", None)
    is_model = isinstance(kind, type) and issubclass(kind, Parameters)
    require(is_model, policy, "description", "'parameters_type' is not a subclass of Parameters")
    parameters = getattr(policy, "parameters", None)
    require(
        is_model and isinstance(parameters, kind),  # type: ignore[arg-type]
        policy,
        "description",
        f"'parameters' is {type(parameters).__name__}, not its parameters_type",
    )


def decide(policy: Any, case: str, ask: Callable[[Any], T], inputs: tuple[Any, ...]) -> T:
    """Ask a policy three times and check that it is pure, deterministic and picklable.

    Args:
        policy: the policy.
        case: name of the case, for messages.
        ask: calls the policy (or a copy of it) on the inputs.
        inputs: what the policy is given; must be the same afterwards.

    Returns:
        The decision.

    Raises:
        AssertionError: it raised, changed its input or itself, or decided differently.
        InputError: the policy refused.
    """
    try:
        frozen = pickle.dumps(policy)
    except Exception as error:
        message = f"it cannot be pickled, so runs cannot use several processes: {error}"
        require(False, policy, case, message)
    before = pickle.loads(pickle.dumps(inputs))
    try:
        decision = ask(policy)
    except InputError:
        raise
    except Exception as error:
        message = f"policy '{policy.name}', {case}: it raised {type(error).__name__}: {error}"
        raise AssertionError(message) from error
    unchanged = all(same(a, b) for a, b in zip(inputs, before, strict=True))
    require(unchanged, policy, case, "it changed its input; a policy must be pure")
    require(same(decision, ask(policy)), policy, case, "the same input gave another decision the second time")
    again = ask(pickle.loads(frozen))
    require(same(decision, again), policy, case, "a pickled copy decides differently; it keeps hidden state")
    return decision
