"""``moesim compare-policies``."""

from __future__ import annotations

import click

from moesim.cli.options import print_json, print_rich, progress_bar, scenario_options


@click.command("compare-policies")
@scenario_options
@click.option("--policies", metavar="NAMES", help="Policies to compare, separated by commas; all by default.")
@click.option("--baseline", help="Policy the others are measured against; the first by default.")
@click.option(
    "--workers", type=click.IntRange(1, 256), default=1, help="Processes to use; the result is the same."
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
    """Run several policies on the same tokens of SCENARIO and say which helps, by how much, and why."""
    from moesim.experiment import compare
    from moesim.results.render import render_comparison
    from moesim.scenario import load_scenario

    loaded = load_scenario(scenario, overrides=overrides, seed=seed)
    names = None if policies is None else [name.strip() for name in policies.split(",") if name.strip()]
    with progress_bar() as report:
        comparison = compare(loaded, names, baseline=baseline, workers=workers, progress=report)
    if out is not None:
        comparison.save(out, timing=timing)
    if as_json:
        print_json(comparison.to_dict())
    else:
        print_rich(render_comparison(comparison))
