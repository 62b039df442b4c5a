"""Reading plain mappings field by field, with an error that names the field and says what fits."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, Final

from moesim.errors import InputError, unknown_name
from moesim.units import parse

LARGEST: Final = 2**31
"""No width or count of any model comes near this; larger values are slips or attacks."""

Path = tuple[str | int, ...]


class FieldError(InputError):
    """An ``InputError`` that knows which field is wrong, so that a caller can point at its line.

    Attributes:
        path: keys and positions from the top of the mapping to the field.
    """

    def __init__(
        self,
        message: str,
        file: str | None = None,
        line: int | None = None,
        column: int | None = None,
        hint: str | None = None,
        path: Path = (),
    ) -> None:
        super().__init__(message, file, line, column, hint)
        self.args = (message, file, line, column, hint, path)
        self.path = path


def dotted(path: Path) -> str:
    """Write a path the way people do: ``attention.heads``, ``experts[2].count``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


class Fields:
    """A mapping under inspection.

    Args:
        data: the mapping.
        path: where it stands.

    Raises:
        FieldError: it is not a mapping with text keys.
    """

    def __init__(self, data: object, path: Path = ()) -> None:
        self.path = path
        if not isinstance(data, Mapping) or not all(isinstance(key, str) for key in data):
            raise self.error(None, "must be a mapping of names to values", data)
        self.data: Mapping[str, Any] = data

    def error(self, key: str | None, expected: str, value: object, hint: str | None = None) -> FieldError:
        """Build the error for one field (or for the mapping itself)."""
        path = self.path if key is None else (*self.path, key)
        shown = repr(value)
        shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
        message = f"'{dotted(path) or 'model'}' {expected}, got {shown}"
        return FieldError(message, hint=hint, path=path)

    def has(self, key: str) -> bool:
        """Whether the key is there with a value other than null."""
        return self.data.get(key) is not None

    def known(self, names: Collection[str]) -> None:
        """Refuse keys that mean nothing, naming the nearest one that does."""
        for key in self.data:
            if key not in names:
                plain = unknown_name("model key", key, names)
                raise FieldError(plain.message, hint=plain.hint, path=(*self.path, key))

    def integer(self, key: str, default: int | None = None, low: int = 1, high: int = LARGEST) -> int:
        """Read a whole number between ``low`` and ``high``.

        Raises:
            FieldError: missing without a default, not a whole number, NaN, negative or out of bounds.
        """
        value = self.data.get(key)
        if value is None:
            if default is None:
                path = (*self.path, key)
                message = f"'{dotted(path)}' is missing"
                raise FieldError(message, hint=f"give a whole number of at least {low}", path=path)
            return default
        expected = f"must be a whole number from {low} to {high}"
        try:
            number = parse(value, "") if isinstance(value, str) else value
        except ValueError as error:
            raise self.error(key, expected, value) from error
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            raise self.error(key, expected, value)
        if isinstance(number, float) and not (math.isfinite(number) and number.is_integer()):
            raise self.error(key, expected, value)
        if not low <= number <= high:
            raise self.error(key, expected, value)
        return int(number)

    def positive(self, key: str) -> float | None:
        """Read an optional finite number above zero."""
        value = self.data.get(key)
        if value is None:
            return None
        good = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not good or not 0 < value < 1e18:
            raise self.error(key, "must be a number above zero", value)
        return float(value)

    def text(self, key: str, default: str) -> str:
        """Read a piece of text."""
        value = self.data.get(key, default)
        if not isinstance(value, str):
            raise self.error(key, "must be text", value)
        return value

    def choice(self, key: str, options: Collection[str], default: str) -> str:
        """Read one of a few words."""
        value = self.text(key, default)
        if value not in options:
            plain = unknown_name(f"value of '{dotted((*self.path, key))}'", value, options)
            raise FieldError(plain.message, hint=plain.hint, path=(*self.path, key))
        return value

    def flag(self, key: str, default: bool) -> bool:
        """Read true or false."""
        value = self.data.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(key, "must be true or false", value)
        return value

    def items(self, key: str, limit: int) -> list[Any]:
        """Read a list of at most ``limit`` items (empty when missing)."""
        value = self.data.get(key)
        if value is None:
            return []
        if not isinstance(value, (list, tuple)) or len(value) > limit:
            raise self.error(key, f"must be a list of at most {limit} items", value)
        return list(value)

    def section(self, key: str) -> Fields:
        """Read a nested mapping (empty when missing)."""
        value = self.data.get(key)
        return Fields({} if value is None else value, (*self.path, key))
