"""``moesim simulate``."""

from __future__ import annotations

import click

from moesim.cli.options import check_out, scenario_options
from moesim.cli.output import deliver


@click.command(short_help="Run one policy of a scenario.")
@scenario_options
@click.option("--policy", metavar="NAME", help="Which policy to run; the scenario's first by default.")
def simulate(
    scenario: str,
    overrides: tuple[str, ...],
    seed: int | None,
    out: str | None,
    as_json: bool,
    timing: bool,
    policy: str | None,
) -> None:
    """Run one policy of SCENARIO and say how long steps take, what memory holds, and why.

    Ctrl-C ends the run after the step in progress and tells what is done.
    """
    from moesim.experiment import simulate as run
    from moesim.scenario import load_scenario

    check_out(out)
    loaded = load_scenario(scenario, overrides=overrides, seed=seed)
    deliver(lambda report: run(loaded, policy, report), out, as_json, timing)
