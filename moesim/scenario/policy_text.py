"""Policies as a person writes them on one line: ``llep(alpha=1.2), greedy + lplb``.

    list   = policy {"," policy}
    policy = part ["+" part]                 placement + dispatch, or one name
    part   = name ["(" [key "=" value {"," key "=" value}] ")"]

Values are YAML in flow style, so that ``{kind: even}`` and ``[1, 2]`` may stand there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from moesim import yamlio
from moesim.errors import InputError

_NAME: Final = re.compile(r"[A-Za-z_][\w.-]*")
_BLANK: Final = re.compile(r"\s*")
_CLOSING: Final = {"(": ")", "[": "]", "{": "}"}
MAX_LENGTH: Final = 20_000


@dataclass(frozen=True)
class Part:
    """A name with parameters.

    Attributes:
        name: what was written.
        parameters: values by key.
        at: where the name begins, counted from 1.
        keys_at: where each key begins.
    """

    name: str
    parameters: Mapping[str, Any]
    at: int
    keys_at: Mapping[str, int]


@dataclass(frozen=True)
class PolicyText:
    """A policy as written.

    Attributes:
        parts: one name, or a placement and a dispatch policy.
        text: what was written, without blanks around it.
    """

    parts: tuple[Part, ...]
    text: str

    @property
    def plain(self) -> bool:
        """Whether it is a name and nothing else."""
        return len(self.parts) == 1 and self.text == self.parts[0].name


def at_character(position: int, error: InputError) -> InputError:
    """Return an error that says at which character, counted from 1, it stands."""
    return InputError(f"character {position}: {error.message}", hint=error.hint)


def read_policies(text: str, known: Iterable[str] = ()) -> list[PolicyText]:
    """Read a list of policies; empty places between commas are passed over.

    Args:
        text: what was written.
        known: names that may hold signs and blanks, such as those of a scenario's policies.

    Raises:
        InputError: not of this form; says at which character.
    """
    if len(text) > MAX_LENGTH:
        message = f"a list of policies has at most {MAX_LENGTH} characters"
        raise InputError(message)
    reader = _Reader(text, sorted(known, key=len, reverse=True))
    found: list[PolicyText] = []
    while not reader.ended:
        if reader.takes(","):
            continue
        found.append(reader.policy())
        if not reader.ended and not reader.takes(","):
            last = found[-1]
            raise reader.expected(
                "',', '+' or '('" if last.plain else "','" if len(last.parts) > 1 else "',' or '+'"
            )
    return found


def read_policy(text: str, known: Iterable[str] = ()) -> PolicyText:
    """Read one policy.

    Args:
        text: what was written.
        known: as for ``read_policies``.

    Raises:
        InputError: not of this form; says at which character.
    """
    found = read_policies(text, known)
    if len(found) != 1:
        message = f"expected one policy, got {len(found)}"
        raise InputError(message)
    return found[0]


class _Reader:
    def __init__(self, text: str, known: Sequence[str]) -> None:
        self.text = text
        self.known = known
        self.at = 0
        self._skip()

    def _skip(self) -> None:
        blank = _BLANK.match(self.text, self.at)
        self.at = blank.end() if blank else self.at

    @property
    def ended(self) -> bool:
        return self.at >= len(self.text)

    def takes(self, sign: str) -> bool:
        """Take a sign if it is next."""
        if not self.text.startswith(sign, self.at):
            return False
        self.at += len(sign)
        self._skip()
        return True

    def expected(self, what: str) -> InputError:
        """Build the error for something else than what was expected here."""
        got = "the end" if self.ended else f"'{self.text[self.at]}'"
        hint = "write NAME, NAME(KEY=VALUE, ...) or PLACEMENT+DISPATCH"
        return at_character(self.at + 1, InputError(f"expected {what}, got {got}", hint=hint))

    def known_name(self) -> str | None:
        """Take a name that is known, if it stands here by itself."""
        for name in self.known:
            after = self.text[self.at + len(name) :].lstrip()[:1]
            if self.text.startswith(name, self.at) and (not after or after in ",+("):
                self.at += len(name)
                return name
        return None

    def name(self, what: str) -> str:
        match = _NAME.match(self.text, self.at)
        if match is None:
            raise self.expected(what)
        self.at = match.end()
        return match.group()

    def policy(self) -> PolicyText:
        start = self.at
        parts = [self.part()]
        end = len(self.text[: self.at].rstrip())
        if self.takes("+"):
            parts.append(self.part())
            end = len(self.text[: self.at].rstrip())
        return PolicyText(tuple(parts), self.text[start:end])

    def part(self) -> Part:
        start = self.at
        name = self.known_name() or self.name("the name of a policy")
        self._skip()
        parameters: dict[str, Any] = {}
        places: dict[str, int] = {}
        if self.takes("("):
            while not self.takes(")"):
                at = self.at + 1
                key = self.name("')' or the name of a parameter")
                if key in parameters:
                    raise at_character(at, InputError(f"'{key}' is there twice"))
                self._skip()
                if not self.takes("="):
                    raise self.expected(f"'=' after '{key}'")
                parameters[key] = self.value(key)
                places[key] = at
                if not self.takes(",") and not self.text.startswith(")", self.at):
                    raise self.expected("',' or ')'")
        return Part(name, parameters, start + 1, places)

    def value(self, key: str) -> Any:
        """Read up to the comma or parenthesis that ends a value."""
        start, open_signs, quote = self.at, "", ""
        while not self.ended:
            sign = self.text[self.at]
            if quote:
                if sign == "\\" and quote == '"':
                    self.at += 1
                elif sign == quote:
                    quote = ""
            elif sign in "'\"":
                quote = sign
            elif sign in _CLOSING:
                open_signs += _CLOSING[sign]
            elif open_signs and sign == open_signs[-1]:
                open_signs = open_signs[:-1]
            elif not open_signs and sign in ",)":
                break
            elif sign in ")]}":
                raise self.expected(f"'{open_signs[-1]}'" if open_signs else "',' or ')'")
            self.at += 1
        self.at = min(self.at, len(self.text))
        if self.ended:
            raise self.expected(f"'{quote or (open_signs or ')')[-1]}'")
        text = self.text[start : self.at].strip()
        if not text:
            raise self.expected(f"a value for '{key}'")
        try:
            return yamlio.loads(text, file="value").data
        except InputError as error:
            raise at_character(
                start + (error.column or 1), InputError(error.message, hint=error.hint)
            ) from None
