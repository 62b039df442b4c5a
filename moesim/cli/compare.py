"""``moesim compare-policies``."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import click

from moesim.cli.options import check_out, scenario_options
from moesim.cli.output import deliver
from moesim.errors import InputError

if TYPE_CHECKING:
    from moesim.policies.base import Policy

MAX_SEEDS: Final = 1000


@click.command("compare-policies", short_help="Run several policies on the same tokens.")
@scenario_options
@click.option(
    "--policies",
    metavar="LIST",
    help="Policies to compare, such as 'ep, llep(alpha=1.2), eplb+llep'; the scenario's by default.",
)
@click.option("--all", "every", is_flag=True, help="Compare every policy there is; tell which do not fit.")
@click.option("--seeds", metavar="N,N", help="Repeat with these seeds, and tell how sure the order is.")
@click.option("--traces", metavar="DIR,DIR", help="Repeat with these routing traces.")
@click.option("--rank", "ranked", is_flag=True, help="Rank the policies, with confidence intervals.")
@click.option(
    "--baseline", metavar="NAME", help="Policy the others are measured against; the first by default."
)
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    default=1,
    metavar="N",
    help="Processes to use; the result is the same.",
)
def compare_policies(
    scenario: str,
    overrides: tuple[str, ...],
    seed: int | None,
    out: str | None,
    as_json: bool,
    timing: bool,
    policies: str | None,
    every: bool,
    seeds: str | None,
    traces: str | None,
    ranked: bool,
    baseline: str | None,
    workers: int,
) -> None:
    """Run several policies on the same tokens of SCENARIO and say which helps, by how much, and why.

    Policies are those of the scenario, presets, or placement and dispatch policies (see 'moesim list
    policies'), with parameters in parentheses; PLACEMENT+DISPATCH combines two. --all, --seeds, --traces and
    --rank rank them with confidence intervals of the differences. Ctrl-C ends the run and compares the
    policies that are done.
    """
    from moesim.experiment import compare
    from moesim.ranking import rank
    from moesim.scenario import load_scenario
    from moesim.scenario.policy_named import policies_from_text

    check_out(out)
    if every and policies is not None:
        message = "--all and --policies exclude each other"
        raise InputError(message)
    drawn = [seed] if seeds is None else _numbers(seeds)
    if seeds is not None and seed is not None:
        message = "--seeds and --seed exclude each other"
        raise InputError(message)
    replaced = (
        [[]]
        if traces is None
        else [[f"routing.trace={json.dumps(one)}"] for one in _words(traces, "--traces")]
    )
    # What --set says about a trace comes after the trace itself.
    scenarios = [
        load_scenario(scenario, overrides=(*trace, *overrides), seed=one)
        for trace in replaced
        for one in drawn
    ]
    chosen: Sequence[Policy] | None = None
    if policies is not None:
        try:
            chosen = policies_from_text(scenarios[0], policies)
        except InputError as error:
            raise error.at("--policies") if error.message.startswith("character ") else error from None
    if every or ranked or seeds is not None or traces is not None:
        deliver(
            lambda report: rank(scenarios, chosen, baseline, every, workers, report), out, as_json, timing
        )
    else:
        deliver(lambda report: compare(scenarios[0], chosen, baseline, workers, report), out, as_json, timing)


def _words(text: str, option: str) -> list[str]:
    """Split the value of an option at commas.

    Raises:
        InputError: nothing there, or something twice.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    twice = next((word for place, word in enumerate(words) if word in words[:place]), None)
    if not words or twice is not None:
        message = f"'{twice}' is there twice" if twice is not None else "nothing is named"
        raise InputError(message, f"{option} {text}"[:80])
    return words


def _numbers(text: str) -> list[int]:
    """Read seeds; ``0-4`` are five.

    Raises:
        InputError: not a list of whole numbers from 0.
    """
    found: list[int] = []
    for word in _words(text, "--seeds"):
        match = re.fullmatch(r"(\d{1,18})(?:-(\d{1,18}))?", word)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last < first + MAX_SEEDS:
            message = (
                f"'{word}' is not a seed: whole numbers from 0, or a range of at most {MAX_SEEDS} such as 0-4"
            )
            raise InputError(message, f"--seeds {text}"[:80])
        found += range(first, last + 1)
    _words(",".join(map(str, found)), "--seeds")
    return found
