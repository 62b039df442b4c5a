"""Predictors as people write them: a name, or a mapping with ``kind`` and parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, SerializeAsAny

from moesim.errors import unknown_name
from moesim.policies.parameters import PolicyInputError, read_parameters
from moesim.policies.prediction.base import Predictor
from moesim.policies.prediction.predictors import (
    Distribution,
    LastWindow,
    MovingAverage,
    Oracle,
    TokenToExpert,
)

PREDICTORS: Final[Mapping[str, type[Predictor]]] = {
    "oracle": Oracle,
    "last_window": LastWindow,
    "moving_average": MovingAverage,
    "distribution": Distribution,
    "token_to_expert": TokenToExpert,
}


def create_predictor(given: Any) -> Predictor:
    """Make a predictor from its name or from a mapping with ``kind`` and parameters.

    Raises:
        InputError: an unknown name or parameter, or a value that does not fit.
    """
    if isinstance(given, Predictor):
        return given
    if isinstance(given, str):
        given = {"kind": given}
    if not isinstance(given, Mapping) or not isinstance(given.get("kind"), str):
        message = f"a predictor is a name or a mapping with 'kind' and parameters, got {given!r}"
        raise PolicyInputError(message, hint=f"known: {', '.join(PREDICTORS)}")
    kind = given["kind"]
    if kind not in PREDICTORS:
        found = unknown_name("predictor", kind, PREDICTORS)
        raise PolicyInputError(found.message, hint=found.hint, key=("kind",))
    made = read_parameters(f"predictor '{kind}'", PREDICTORS[kind], given)
    assert isinstance(made, Predictor)
    return made


def _read(given: Any) -> Predictor:
    try:
        return create_predictor(given)
    except PolicyInputError as error:
        raise error.under("predictor") from None


AnyPredictor = Annotated[SerializeAsAny[Predictor], BeforeValidator(_read)]
"""A parameter called ``predictor``."""
