"""From a scenario to results: build it, run it, compare policies on it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from moesim.engine import run
from moesim.engine.tables import tables
from moesim.errors import InputError, unknown_name
from moesim.results import Comparison, Result
from moesim.routing.shared import SharedLoads
from moesim.scenario import build
from moesim.workers import workers as processes

if TYPE_CHECKING:
    from moesim.engine.setup import Setup
    from moesim.policies.base import Policy
    from moesim.results.ranking import Ranking
    from moesim.scenario import Scenario

Progress = Callable[[str, int, int], None]
"""Called with (what is going on, how much of it is done, how much there is)."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C ended a run before its time.

    Attributes:
        done: what was finished: a result of the steps that ran, or a comparison or ranking of the policies
            that did.
        told: how much that is, for people.
    """

    def __init__(self, done: Result | Comparison | Ranking, told: str) -> None:
        super().__init__(done, told)
        self.done = done
        self.told = told


def simulate(
    scenario: Scenario, policy: str | Policy | None = None, progress: Progress | None = None
) -> Result:
    """Run one policy of a scenario.

    Args:
        scenario: what to run.
        policy: a policy, or the name of one of the scenario or of a preset; by default the scenario's first.
        progress: called after every step with (policy, steps done, steps in all).

    Raises:
        InputError: the pieces of the scenario do not fit together, or the policy is unknown.
        Interrupted: Ctrl-C after the first step; holds the result of the steps that ran.
    """
    chosen = choose(scenario, None if policy is None else [policy])[0]
    return Bench(scenario).run(chosen, progress)


def choose(scenario: Scenario, asked: Sequence[str | Policy] | None) -> Sequence[Policy]:
    """Return policies as they are, or built by name."""
    if asked is None:
        return build.build_policies(scenario, None)
    return [build.build_policies(scenario, [one])[0] if isinstance(one, str) else one for one in asked]


class Bench:
    """A scenario on which several policies run: what does not depend on the policy is made once."""

    def __init__(self, scenario: Scenario, folder: Path | None = None) -> None:
        """Prepare.

        Args:
            scenario: what to run.
            folder: where loads are kept for other policies and processes; None: they are drawn again.
        """
        self.scenario = scenario
        self.folder = folder
        self._first: Setup | None = None

    def setup(self, policy: Policy) -> Setup:
        """Return all that one run of a policy needs.

        Raises:
            InputError: the pieces of the scenario do not fit together.
        """
        if self._first is not None:
            return build.with_policy(self.scenario, self._first, policy)
        setup = build.build_setup(self.scenario, policy)
        if self.folder is not None:
            shared = SharedLoads(setup.routing, self.folder, setup.workload.steps)
            self._first = replace(setup, routing=shared, bounds={})
            return replace(self._first)
        return setup

    def run(self, policy: Policy, progress: Progress | None = None) -> Result:
        """Run a policy.

        Raises:
            InputError: the pieces of the scenario do not fit together.
            Interrupted: Ctrl-C after the first step; holds the result of the steps that ran.
        """
        return _run(self.scenario, policy, self.setup, progress)


def _run(
    scenario: Scenario, policy: Policy, prepare: Callable[[Policy], Setup], progress: Progress | None
) -> Result:
    began = time.perf_counter()
    setup = prepare(policy)

    def report(done: int, total: int) -> None:
        if progress is not None:
            progress(policy.name, done, total)

    recording = run(setup, report)
    steps, resolved = len(recording.steps), scenario.resolved()
    passes = setup.workload.passes
    cut_short = steps < passes
    if cut_short:
        # A result says what it is the result of: a scenario of that many steps.
        if setup.workload.requests is None:
            resolved["workload"]["steps"] = steps
        else:
            resolved["workload"]["requests"]["most"] = steps
    parameters = {
        "placement": {"kind": policy.placement.name, **policy.placement.parameters.model_dump(mode="json")},
        "dispatch": {"kind": policy.dispatch.name, **policy.dispatch.parameters.model_dump(mode="json")},
    }
    if policy.refresh is not None:
        parameters["refresh"] = policy.refresh.model_dump(mode="json")
    if policy.offload is not None:
        parameters["offload"] = policy.offload.described()
    result = Result.from_tables(
        tables(recording),
        name=scenario.name,
        policy=policy.name,
        parameters=parameters,
        scenario=resolved,
        seed=scenario.seed,
        wall_s=time.perf_counter() - began,
        notes=setup.notes,
        exact=policy.exact,
    )
    if cut_short:
        raise Interrupted(result, f"these are {steps} of {passes} steps")
    return result


def compare(
    scenario: Scenario,
    policies: Sequence[str | Policy] | None = None,
    baseline: str | None = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> Comparison:
    """Run several policies on the same tokens and put them side by side.

    Args:
        scenario: what to run.
        policies: policies, or names of policies of the scenario or of presets; by default all of the
            scenario's.
        baseline: the policy the others are measured against; by default the first.
        workers: processes to spread the policies over; the result is the same for any number.
        progress: called after every step with (policy, steps done, steps in all); with several workers
            a few times a second with ("policies", policies done, policies in all).

    Raises:
        InputError: the pieces of the scenario do not fit together, a policy or the baseline is unknown, or
            a worker died.
        Interrupted: Ctrl-C after the first policy; holds the comparison of those that are done, against
            the first of them if the baseline is not.
    """
    chosen = choose(scenario, policies)
    names = [policy.name for policy in chosen]
    check_names(names, baseline)
    results: dict[str, Result] = {}

    def take(place: int, result: Result) -> None:
        results[names[place]] = result

    def told(done: int, total: int) -> None:
        if progress is not None:
            progress("policies", done, total)

    try:
        with shared_folder(len(chosen) > 1) as folder:
            if workers > 1 and len(chosen) > 1:
                given = (scenario, folder)
                with processes(min(workers, len(chosen)), _prepare, given) as pool:
                    pool.each(_run_in_worker, chosen, take, told)
            else:
                bench = Bench(scenario, folder)
                for place, policy in enumerate(chosen):
                    take(place, bench.run(policy, progress))
    except KeyboardInterrupt:
        if not results:
            raise KeyboardInterrupt from None
        done = [results[name] for name in names if name in results]
        kept = f"these are {len(done)} of {len(names)} policies"
        raise Interrupted(Comparison(done, baseline if baseline in results else None), kept) from None
    return Comparison([results[name] for name in names], baseline)


def check_names(names: Sequence[str], baseline: str | None) -> None:
    """Refuse before the first step what the comparison would refuse after the last one."""
    if not names:
        message = "a comparison needs at least one policy"
        raise InputError(message)
    for place, name in enumerate(names):
        if name in names[:place]:
            message = f"policy '{name}' is there twice"
            raise InputError(message)
    if baseline is not None and baseline not in names:
        raise unknown_name("policy in this comparison", baseline, names)


@contextmanager
def shared_folder(wanted: bool = True) -> Iterator[Path | None]:
    """Give a temporary folder for loads; None where it is not wanted or cannot be had."""
    try:
        made = TemporaryDirectory(prefix="moesim-loads-", ignore_cleanup_errors=True) if wanted else None
    except OSError:
        made = None
    if made is None:
        yield None
        return
    with made as name:
        yield Path(name)


_BENCH: list[Bench] = []
"""In a worker process: the bench that it works on."""


def _prepare(scenario: Scenario, folder: Path | None) -> None:
    _BENCH[:] = [Bench(scenario, folder)]


def _run_in_worker(policy: Policy) -> Result:
    return _BENCH[0].run(policy)
