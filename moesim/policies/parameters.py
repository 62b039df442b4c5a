"""From a mapping that a person wrote to the typed parameters of a policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from moesim.errors import InputError, nearest
from moesim.policies.base import Parameters


class PolicyInputError(InputError):
    """A policy cannot be made from what was written.

    Attributes:
        key: the keys that lead to the wrong value, for example ``("dispatch", "alpha")``; lets a caller
            that knows the file say where it stands.
    """

    def __init__(
        self,
        message: str,
        file: str | None = None,
        line: int | None = None,
        column: int | None = None,
        hint: str | None = None,
        key: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message, file, line, column, hint)
        self.args = (message, file, line, column, hint, key)
        self.key = key

    def under(self, key: str) -> PolicyInputError:
        """Return the same error for a value that stands under ``key``."""
        return PolicyInputError(self.message, self.file, self.line, self.column, self.hint, (key, *self.key))


def unknown_key(owner: str, key: str, known: list[str]) -> PolicyInputError:
    """Build the error for a key that ``owner`` does not have."""
    if not known:
        return PolicyInputError(f"{owner} has no parameter '{key}'", hint="it takes none", key=(key,))
    close = nearest(key, known)
    hint = f"did you mean '{close}'?" if close else f"known: {', '.join(known)}"
    return PolicyInputError(f"{owner} has no parameter '{key}'", hint=hint, key=(key,))


def takes(kind: type[Parameters], key: str, value: Any) -> bool:
    """Say whether a parameter model knows a key, under this name or another, whatever its value."""
    if key in kind.model_fields:
        return True
    try:
        kind.model_validate({key: value})
    except ValidationError as error:
        return all(problem["type"] != "extra_forbidden" for problem in error.errors(include_url=False))
    return True


def read_parameters(owner: str, kind: type[Parameters], given: Mapping[str, Any]) -> Parameters:
    """Validate parameters.

    Args:
        owner: how messages name the policy.
        kind: its parameter model.
        given: what was written.

    Raises:
        PolicyInputError: an unknown key or a value that does not fit; names key, expectation and remedy.
    """
    known = list(kind.model_fields)
    for key, value in given.items():
        # Pydantic would quietly read true as 1.
        if isinstance(value, bool) and key in known and kind.model_fields[key].annotation is not bool:
            message = f"{owner}: '{key}' cannot be {str(value).lower()}"
            raise PolicyInputError(message, hint=_meaning(kind, key), key=(str(key),))
    try:
        return kind.model_validate({str(key): value for key, value in given.items()})
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            raise unknown_key(owner, key, known) from None
        expected = problem["msg"].removeprefix("Value error, ")
        expected = expected[:1].lower() + expected[1:]
        if not key:
            raise PolicyInputError(f"{owner}: {expected}") from None
        message = f"{owner}: '{key}' is {problem['input']!r}, {expected}"
        raise PolicyInputError(message, hint=_meaning(kind, key), key=(key,)) from None


def _meaning(kind: type[Parameters], key: str) -> str | None:
    field = kind.model_fields.get(key)
    return f"{key}: {field.description}" if field is not None and field.description else None
