"""Typed parameters of the generators, and errors that name the key and its range."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from moesim.errors import InputError, nearest


class GeneratorParameters(BaseModel):
    """What every generator accepts besides its own parameters."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    profile_tokens: int = Field(
        65536, ge=1, le=10**9, description="tokens of the profiling window that placement policies may see"
    )


P = TypeVar("P", bound=GeneratorParameters)


def read_parameters(kind: str, model: type[P], given: Mapping[str, object]) -> P:
    """Validate the parameters of a generator.

    Raises:
        InputError: an unknown key, a missing one, or a value of the wrong type or out of range.
    """
    try:
        return model.model_validate(dict(given))
    except ValidationError as error:
        found = error.errors(include_url=False)
        # A misspelt key also leaves the right one missing: the misspelling is what has to be mended.
        first = next((one for one in found if one["type"] == "extra_forbidden"), found[0])
        raise _explain(kind, model, first["type"], first["loc"], first["msg"], first["input"]) from error


def _explain(
    kind: str, model: type[P], reason: str, place: tuple[int | str, ...], text: str, value: object
) -> InputError:
    """Turn one finding of the validator into a sentence."""
    key = ".".join(str(part) for part in place)
    known = list(model.model_fields)
    if reason == "extra_forbidden":
        close = nearest(key, known)
        hint = f"did you mean '{close}'?" if close else f"known: {', '.join(known)}"
        return InputError(f"generator '{kind}' has no parameter '{key}'", hint=hint)
    if reason == "missing":
        return InputError(f"generator '{kind}' needs the parameter '{key}'", hint=described(model, key))
    wanted = text.removeprefix("Value error, ").replace("Input should be", "must be", 1)
    message = f"generator '{kind}': {key} {wanted}, got {_short(value)}"
    return InputError(message, hint=described(model, key))


def described(model: type[GeneratorParameters], key: str) -> str | None:
    """Return the description of a parameter with its range, or None when there is no such parameter."""
    field = model.model_fields.get(key.split(".", maxsplit=1)[0])
    if field is None:
        return None
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    bounds = [
        f"{sign} {getattr(rule, name)}"
        for rule in field.metadata
        for name, sign in signs.items()
        if getattr(rule, name, None) is not None
    ]
    return f"{field.description}; {' and '.join(bounds)}" if bounds else field.description


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
