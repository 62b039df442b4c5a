"""``moesim tune``."""

from __future__ import annotations

import click

from moesim.cli.options import json_option
from moesim.cli.output import print_json, print_rich
from moesim.cli.progress import stoppable_progress


@click.command(short_help="Search a policy's parameters for a scenario.")
@click.argument("policy")
@click.argument("scenario", type=click.Path())
@click.option(
    "--parameters",
    metavar="LIST",
    help="Parameters to search, such as 'alpha, threshold=1:3:log'; all that have a range by default.",
)
@click.option(
    "--trials", type=click.IntRange(2, 100_000), default=60, metavar="N", help="Settings to try [60]."
)
@click.option(
    "--memory-limit",
    metavar="SIZE",
    help="Most that a device may hold, such as 70GiB; all it has by default.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    default=1,
    metavar="N",
    help="Processes to use; the result is the same.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, metavar="N", help="Seed of the search [0].")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a value of the scenario, for example workload.steps=2. Repeatable.",
)
@click.option("--out", type=click.Path(), metavar="DIR", help="Also write trials, best settings and plots.")
@click.option("--resume", is_flag=True, help="Go on with the search in --out.")
@json_option
def tune(
    policy: str,
    scenario: str,
    parameters: str | None,
    trials: int,
    memory_limit: str | None,
    workers: int,
    seed: int,
    overrides: tuple[str, ...],
    out: str | None,
    resume: bool,
    as_json: bool,
) -> None:
    """Search the parameters of POLICY for the lowest latency of SCENARIO under a memory limit.

    POLICY is written as in 'compare-policies --policies'; parameters given in it are not searched. Ctrl-C
    ends the search and tells the best so far; --resume goes on with it.
    """
    from moesim.errors import InputError
    from moesim.scenario import load_scenario
    from moesim.tuning import tune as search
    from moesim.tuning.render import render_outcome
    from moesim.tuning.search import TuningInterrupted

    if resume and out is None:
        message = "--resume needs --out, the directory of the earlier search"
        raise InputError(message)
    loaded = load_scenario(scenario, overrides=overrides)
    asked = None
    if parameters is not None:
        asked = [part.strip() for part in parameters.split(",") if part.strip()]
        if not asked:
            message = "nothing is named"
            raise InputError(message, "--parameters")
    told = None
    with stoppable_progress() as report:
        try:
            found = search(loaded, policy, asked, trials, memory_limit, workers, seed, out, resume, report)
        except TuningInterrupted as stop:
            found, told = stop.done, stop.told
    if as_json:
        print_json(found.to_dict())
    else:
        print_rich(render_outcome(found))
    if out is not None:
        click.echo(f"wrote {out}; best.yaml has the best settings", err=True)
    if told is not None:
        click.echo(f"moesim: interrupted; {told}", err=True)
        click.get_current_context().exit(130)
