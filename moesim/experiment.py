"""From a scenario to results: build it, run it, compare policies on it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TYPE_CHECKING

from moesim.engine import run
from moesim.engine.tables import tables
from moesim.results import Comparison, Result
from moesim.scenario import build

if TYPE_CHECKING:
    from moesim.policies.base import Policy
    from moesim.scenario import Scenario

Progress = Callable[[str, int, int], None]
"""Called after every step with (policy, steps done, steps in all)."""


def simulate(scenario: Scenario, policy: str | None = None, progress: Progress | None = None) -> Result:
    """Run one policy of a scenario.

    Args:
        scenario: what to run.
        policy: name of a policy of the scenario or of a preset; by default the scenario's first.
        progress: called after every step.

    Raises:
        InputError: the pieces of the scenario do not fit together, or the policy is unknown.
    """
    chosen = build.build_policies(scenario, None if policy is None else [policy])[0]
    return _simulate(scenario, chosen, progress)


def _simulate(scenario: Scenario, policy: Policy, progress: Progress | None) -> Result:
    began = time.perf_counter()
    setup = build.build_setup(scenario, policy)

    def report(done: int, total: int) -> None:
        if progress is not None:
            progress(policy.name, done, total)

    recording = run(setup, report)
    parameters = {
        "placement": {"kind": policy.placement.name, **policy.placement.parameters.model_dump(mode="json")},
        "dispatch": {"kind": policy.dispatch.name, **policy.dispatch.parameters.model_dump(mode="json")},
    }
    return Result.from_tables(
        tables(recording),
        name=scenario.name,
        policy=policy.name,
        parameters=parameters,
        scenario=scenario.resolved(),
        seed=scenario.seed,
        wall_s=time.perf_counter() - began,
    )


def compare(
    scenario: Scenario,
    policies: Sequence[str] | None = None,
    baseline: str | None = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> Comparison:
    """Run several policies on the same tokens and put them side by side.

    Args:
        scenario: what to run.
        policies: names of policies of the scenario or of presets; by default all of the scenario's.
        baseline: the policy the others are measured against; by default the first.
        workers: processes to spread the policies over; the result is the same for any number.
        progress: called after every step (with one worker) or every policy.

    Raises:
        InputError: the pieces of the scenario do not fit together, or a policy is unknown.
    """
    chosen = build.build_policies(scenario, policies)
    if workers <= 1 or len(chosen) == 1:
        return Comparison([_simulate(scenario, policy, progress) for policy in chosen], baseline)
    with ProcessPoolExecutor(min(workers, len(chosen)), mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(_simulate, scenario, policy, None) for policy in chosen]
        results = []
        for done, (policy, future) in enumerate(zip(chosen, futures, strict=True), start=1):
            results.append(future.result())
            if progress is not None:
                progress(policy.name, done, len(chosen))
    return Comparison(results, baseline)
