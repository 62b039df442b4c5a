"""Reading of hardware mappings: every value checked once, every complaint naming its key."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from moesim import units
from moesim.errors import InputError, unknown_name

_LARGEST = {"B": 1e18, "B/s": 1e18, "FLOP/s": 1e21, "s": 60.0}
_SMALLEST = {"B": 1.0, "B/s": 1.0, "FLOP/s": 1.0, "s": 0.0}


class Fields:
    """A mapping read key by key.

    Args:
        mapping: what the user wrote.
        where: dotted path of the mapping, empty at the top.
        known: keys that may occur.

    Raises:
        InputError: not a mapping, or a key that is not known (names the nearest one).
    """

    def __init__(self, mapping: object, where: str, known: Iterable[str]) -> None:
        self.where = where
        if not isinstance(mapping, Mapping):
            message = f"{self._label()} must be a mapping of settings, got {_shown(mapping)}"
            raise InputError(message)
        names = list(known)
        for key in mapping:
            if not isinstance(key, str):
                message = f"the keys of {self._label()} must be texts, got {_shown(key)}"
                raise InputError(message)
            if key not in names:
                kind = f"key of '{where}'" if where else "key"
                raise unknown_name(kind, key[:60], names)
        self.mapping: Mapping[str, Any] = mapping

    def __contains__(self, key: str) -> bool:
        """Tell whether the key is given and not null."""
        return self.mapping.get(key) is not None

    def raw(self, key: str) -> Any:
        """Return the value as given, None when absent."""
        return self.mapping.get(key)

    def require(self, key: str, example: str) -> Any:
        """Return a value that must be given.

        Raises:
            InputError: the key is absent.
        """
        if key not in self:
            message = f"{self._label()} needs '{key}'"
            raise InputError(message, hint=f"for example {key}: {example}")
        return self.mapping[key]

    def quantity(self, key: str, unit: str, default: float | None = None) -> float:
        """Return a quantity in SI units; sizes and rates are positive, times may be zero.

        Raises:
            InputError: absent without a default, not a quantity of that unit, or out of range.
        """
        if key not in self:
            if default is not None:
                return default
            self.require(key, {"B": "80 GB", "B/s": "450 GB/s", "FLOP/s": "989 TFLOP/s", "s": "1 us"}[unit])
        value = self.mapping[key]
        name = self.path(key)
        if not isinstance(value, (str, int, float)):
            message = f"'{name}' must be a quantity, got {_shown(value)}"
            raise InputError(message)
        try:
            amount = units.parse(value, unit)
        except ValueError as error:
            message = f"'{name}': {error}"
            raise InputError(message[:300]) from error
        if not _SMALLEST[unit] <= amount <= _LARGEST[unit]:
            limits = f"from {_SMALLEST[unit]:g} to {_LARGEST[unit]:g} {unit}"
            message = f"'{name}' must be {limits}, got {_shown(value)}"
            raise InputError(message)
        return amount

    def count(self, key: str, default: int, high: int = 65536, low: int = 1) -> int:
        """Return a whole number.

        Raises:
            InputError: not a whole number, or out of range.
        """
        value = self.mapping.get(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            message = f"'{self.path(key)}' must be a whole number from {low} to {high}, got {_shown(value)}"
            raise InputError(message)
        return value

    def number(self, key: str, default: float, low: float, high: float) -> float:
        """Return a plain number in a closed range; a share is ``low=0.001, high=1``.

        Raises:
            InputError: not a number, or out of range.
        """
        value = self.mapping.get(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            message = f"'{self.path(key)}' must be a number from {low:g} to {high:g}, got {_shown(value)}"
            raise InputError(message)
        return float(value)

    def share(self, key: str, default: float) -> float:
        """Return a share of what the datasheet says, above 0 and at most 1."""
        return self.number(key, default, 0.001, 1.0)

    def text(self, key: str, default: str) -> str:
        """Return a short text.

        Raises:
            InputError: not a text, empty, or longer than 200 characters.
        """
        value = self.mapping.get(key)
        if value is None:
            return default
        if not isinstance(value, str) or not 0 < len(value) <= 200:
            message = f"'{self.path(key)}' must be a text of 1 to 200 characters, got {_shown(value)}"
            raise InputError(message)
        return value

    def choice(self, key: str, default: str, options: Iterable[str]) -> str:
        """Return one of the options.

        Raises:
            InputError: another word; names the nearest option.
        """
        value = self.text(key, default)
        names = list(options)
        if value not in names:
            raise unknown_name(f"choice of '{self.path(key)}'", value[:60], names)
        return value

    def path(self, key: str) -> str:
        """Return the dotted path of a key."""
        return f"{self.where}.{key}" if self.where else key

    def _label(self) -> str:
        return f"'{self.where}'" if self.where else "the hardware description"


def _shown(value: object) -> str:
    """Return a short form of a value for a message; containers by kind only (they may be huge)."""
    if value is None:
        return "nothing"
    if isinstance(value, (Mapping, list, tuple, set)):
        return "a list" if not isinstance(value, Mapping) else "a mapping"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 10**18:
        return "a number beyond 1e18"
    return repr(value)[:60]
