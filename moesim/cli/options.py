"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from moesim.errors import InputError

F = TypeVar("F", bound=Callable[..., Any])

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object on stdout, nothing else."
)

_SCENARIO = (
    click.argument("scenario", type=click.Path()),
    click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY=VALUE",
        help="Change a value of the scenario, for example workload.steps=2. Repeatable.",
    ),
    click.option("--seed", type=click.IntRange(min=0), metavar="N", help="Seed of all random streams."),
    click.option(
        "--out", type=click.Path(), metavar="DIR", help="Also write tables, plots, timeline and report."
    ),
    json_option,
    click.option(
        "--timing/--no-timing",
        default=True,
        help="Tell the wall-clock time (in JSON and files wall_s, else on stderr) or not.",
    ),
)


def scenario_options(function: F) -> F:
    """Add what every command on a scenario takes."""
    for option in reversed(_SCENARIO):
        function = option(function)
    return function


def set_option(what: str) -> Callable[[F], F]:
    """Make the repeatable option ``--set KEY=VALUE`` for parameters."""
    return click.option("--set", "pairs", multiple=True, metavar="KEY=VALUE", help=f"{what} Repeatable.")


def read_pairs(pairs: tuple[str, ...], example: str) -> dict[str, Any]:
    """Read KEY=VALUE options with YAML values; ``a.b=1`` makes a mapping ``a`` that holds ``b``.

    Raises:
        InputError: no such form, a value that is not YAML, or a key that is a value as well as a mapping.
    """
    from moesim import yamlio

    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        keys = [key.strip() for key in name.split(".")]
        if not equals or not all(keys):
            message = f"must be written as KEY=VALUE, for example {example}"
            raise InputError(message, f"--set {pair}")
        inner = values
        for key in keys[:-1]:
            inner = inner.setdefault(key, {})
            if not isinstance(inner, dict):
                message = f"'{key}' already has a value"
                raise InputError(message, f"--set {pair}")
        try:
            inner[keys[-1]] = yamlio.loads(text, file="value").data
        except InputError as error:
            raise InputError(error.message, f"--set {pair}", hint=error.hint) from error
    return values


def refuse(values: dict[str, Any], kind: str, options: dict[str, str]) -> None:
    """Refuse parameters that have an option or argument of their own.

    Raises:
        InputError: at the first such parameter.
    """
    for name, instead in options.items():
        if name in values:
            message = f"{kind} takes '{name}' in another place"
            raise InputError(message, f"--set {name}", hint=f"use {instead}")


def check_out(out: str | None) -> None:
    """Check before a long run that its directory can be written.

    Raises:
        InputError: writing there would destroy something, or is not possible.
    """
    from moesim.results.directory import check_target

    if out is None:
        return
    target = Path(out).expanduser().resolve()
    check_target(target)
    above = next(folder for folder in target.parents if folder.exists())
    if not above.is_dir():
        message = f"cannot write the run: {above} is not a directory"
        raise InputError(message, out)
