"""``moesim simulate``."""

from __future__ import annotations

import click

from moesim.cli.options import print_json, print_rich, progress_bar, scenario_options


@click.command()
@scenario_options
@click.option("--policy", help="Which policy to run; the scenario's first by default.")
def simulate(
    scenario: str,
    overrides: tuple[str, ...],
    seed: int | None,
    out: str | None,
    as_json: bool,
    timing: bool,
    policy: str | None,
) -> None:
    """Run one policy of SCENARIO and say how long steps take, what memory holds, and why."""
    from moesim.experiment import simulate as run
    from moesim.results.render import render_result
    from moesim.scenario import load_scenario

    loaded = load_scenario(scenario, overrides=overrides, seed=seed)
    with progress_bar() as report:
        result = run(loaded, policy=policy, progress=report)
    if out is not None:
        result.save(out, timing=timing)
    if as_json:
        print_json(result.summary(timing=timing))
    else:
        print_rich(render_result(result, timing=timing))
