"""Errors written for the person who has to mend the input.

Every error keeps its arguments unchanged and formats itself in ``__str__``: SimPy and process
pools rebuild exceptions as ``type(e)(*e.args)``, which must give the same message back.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MoesimError(Exception):
    """Base of every error that moesim raises on purpose."""


class PluginWarning(UserWarning):
    """An installed plug-in cannot be used; moesim goes on without it."""


class PolicyError(MoesimError):
    """A policy, most likely a third party's, failed while it was deciding.

    Args:
        policy: its name.
        doing: what it was asked to do.
        fault: what went wrong.
    """

    def __init__(self, policy: str, doing: str, fault: str) -> None:
        super().__init__(policy, doing, fault)
        self.policy = policy
        self.doing = doing
        self.fault = fault

    def __str__(self) -> str:
        """Format as one sentence."""
        return f"policy '{self.policy}' failed while {self.doing}: {self.fault}"


class InputError(MoesimError):
    """Something the user gave cannot be used; says what, where, and what would be right.

    Args:
        message: what is wrong and what was expected, one sentence.
        file: the file it stands in, if any.
        line: line in that file, counted from 1.
        column: column in that line, counted from 1.
        hint: the nearest valid choice or the remedy.
    """

    def __init__(
        self,
        message: str,
        file: str | None = None,
        line: int | None = None,
        column: int | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, file, line, column, hint)
        self.message = message
        self.file = file
        self.line = line
        self.column = column
        self.hint = hint

    def __str__(self) -> str:
        """Format as ``file:line:column: message (hint)``."""
        where = ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)
        text = f"{where}: {self.message}" if where else self.message
        return f"{text} ({self.hint})" if self.hint else text

    def at(self, file: str | None, line: int | None = None, column: int | None = None) -> InputError:
        """Return the same error placed in a file, keeping a place it already has."""
        if self.file is not None:
            return self
        return InputError(self.message, file, line, column, self.hint)


def nearest(word: str, options: Iterable[str]) -> str | None:
    """Return the option that looks most like ``word``, or None when none is close."""
    table = {option.lower(): option for option in options}
    found = difflib.get_close_matches(word.lower(), table, n=1, cutoff=0.5)
    return table[found[0]] if found else None


def unknown_name(kind: str, word: str, options: Iterable[str]) -> InputError:
    """Build the error for a name that is not in a catalogue or registry."""
    names = sorted(options)
    close = nearest(word, names)
    hint = f"did you mean '{close}'?" if close else f"known: {', '.join(names[:12])}"
    return InputError(f"there is no {kind} named '{word}'", hint=hint)
