"""``moesim compare-policies``."""

from __future__ import annotations

import click

from moesim.cli.options import check_out, scenario_options
from moesim.cli.output import deliver


@click.command("compare-policies", short_help="Run several policies on the same tokens.")
@scenario_options
@click.option("--policies", metavar="NAMES", help="Policies to compare, separated by commas; all by default.")
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
    baseline: str | None,
    workers: int,
) -> None:
    """Run several policies on the same tokens of SCENARIO and say which helps, by how much, and why.

    Policies are those of the scenario, or presets (see 'moesim list policies'). Ctrl-C ends the run and
    compares the policies that are done.
    """
    from moesim.experiment import compare
    from moesim.scenario import load_scenario

    check_out(out)
    loaded = load_scenario(scenario, overrides=overrides, seed=seed)
    names = None if policies is None else [name.strip() for name in policies.split(",") if name.strip()]
    deliver(lambda report: compare(loaded, names, baseline, workers, report), out, as_json, timing)
