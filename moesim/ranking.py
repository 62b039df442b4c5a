"""Policies compared under several seeds and traces."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from moesim.errors import InputError, MoesimError
from moesim.experiment import Bench, Interrupted, Progress, check_names, choose, shared_folder
from moesim.results import Comparison, Result
from moesim.results.ranking import Ranking, Run, Unfit
from moesim.scenario.policy_named import every_policy
from moesim.scenario.tokens import TraceRouting
from moesim.workers import workers as processes

if TYPE_CHECKING:
    from moesim.policies.base import Policy
    from moesim.scenario import Scenario


def rank(
    scenarios: Scenario | Sequence[Scenario],
    policies: Sequence[str | Policy] | None = None,
    baseline: str | None = None,
    every: bool = False,
    workers: int = 1,
    progress: Progress | None = None,
) -> Ranking:
    """Compare policies under several scenarios that differ in seed or trace, and say how sure the order is.

    Args:
        scenarios: what to run; policies are those of the first one.
        policies: policies, or texts such as ``llep(alpha=1.2)``; by default all of the scenario's.
        baseline: the policy the others are measured against; by default the first that can run.
        every: run every policy that there is instead, and list those that cannot run with the reason.
        workers: processes to spread the runs over; the result is the same for any number.
        progress: called after every step with (policy, steps done, steps in all); with several workers a
            few times a second with ("runs", runs done, runs in all).

    Raises:
        InputError: the pieces of the scenario do not fit together, a policy or the baseline is unknown, no
            policy can run, or a worker died.
        Interrupted: Ctrl-C after the first policy; holds the ranking of what is done.
    """
    given = [scenarios] if not isinstance(scenarios, Sequence) else list(scenarios)
    if not given:
        message = "a ranking needs at least one scenario"
        raise InputError(message)
    if every and policies is not None:
        message = "all policies and a list of policies exclude each other"
        raise InputError(message)
    chosen = every_policy(given[0]) if every else choose(given[0], policies)
    names = [policy.name for policy in chosen]
    check_names(names, baseline)
    state = _State(given, names, every, baseline)
    try:
        if workers > 1:
            _in_processes(given, chosen, workers, state, progress)
        else:
            for place, scenario in enumerate(given):
                with shared_folder(len(chosen) > 1) as folder:
                    bench = Bench(scenario, folder)
                    for number, policy in enumerate(chosen):
                        state.take(place, number, _run(bench, policy, every, progress))
    except KeyboardInterrupt:
        done = state.interrupted()
        if done is None:
            raise KeyboardInterrupt from None
        raise done from None
    return state.ranking(range(len(given)), names)


@dataclass
class _State:
    """What is done so far."""

    scenarios: Sequence[Scenario]
    names: Sequence[str]
    every: bool
    baseline: str | None
    results: dict[tuple[int, str], Result] = field(default_factory=dict)
    failures: dict[str, tuple[int, MoesimError]] = field(default_factory=dict)

    def take(self, place: int, number: int, done: Result | MoesimError) -> None:
        """Note the result of a policy in a run, or why there is none."""
        name = self.names[number]
        if isinstance(done, Result):
            self.results[place, name] = done
        elif name not in self.failures or place < self.failures[name][0]:
            self.failures[name] = (place, done)

    def ranking(self, places: Sequence[int], names: Sequence[str]) -> Ranking:
        """Return the ranking of some runs and policies.

        Raises:
            InputError: no policy can run, or the baseline cannot.
        """
        able = [name for name in names if name not in self.failures]
        if not able or self.baseline in self.failures:
            raise self.failures[self.baseline if self.baseline in self.failures else names[0]][1]
        base = self.baseline if self.baseline in able else able[0]
        comparisons = [Comparison([self.results[place, name] for name in able], base) for place in places]
        unfit = [Unfit(name, str(self.failures[name][1])) for name in names if name in self.failures]
        return Ranking([_label(self.scenarios[place]) for place in places], comparisons, unfit)

    def interrupted(self) -> Interrupted | None:
        """Return what can be told of the runs that are done: whole runs, else policies of the first one."""
        whole = [place for place in range(len(self.scenarios)) if self._done(place) == list(self.names)]
        if whole:
            told = f"these are {len(whole)} of {len(self.scenarios)} runs"
            return Interrupted(self.ranking(whole, self.names), told)
        names = self._done(0)
        if not any((0, name) in self.results for name in names):
            return None
        told = f"these are {len(names)} of {len(self.names)} policies"
        return Interrupted(self.ranking([0], names), told)

    def _done(self, place: int) -> list[str]:
        return [name for name in self.names if (place, name) in self.results or name in self.failures]


def _label(scenario: Scenario) -> Run:
    routing = scenario.spec.routing
    trace = routing.trace if isinstance(routing, TraceRouting) else None
    return Run(scenario.name, trace, scenario.seed)


def _run(bench: Bench, policy: Policy, every: bool, progress: Progress | None = None) -> Result | MoesimError:
    """Run a policy; where every policy is tried, return what stands in its way."""
    try:
        return bench.run(policy, progress)
    except Interrupted:
        raise KeyboardInterrupt from None
    except MoesimError as error:
        if not every:
            raise
        return error


_WORK: list[tuple[Sequence[Scenario], Sequence[Policy], bool]] = []
_BENCHES: dict[int, Bench] = {}


def _prepare(scenarios: Sequence[Scenario], policies: Sequence[Policy], every: bool) -> None:
    _WORK[:] = [(scenarios, policies, every)]


def _run_in_worker(item: tuple[int, int, Path | None]) -> Result | MoesimError:
    place, number, folder = item
    scenarios, policies, every = _WORK[0]
    if place not in _BENCHES:
        _BENCHES.clear()  # runs come in order, and one at a time is enough to remember
        _BENCHES[place] = Bench(scenarios[place], folder)
    return _run(_BENCHES[place], policies[number], every)


def _in_processes(
    scenarios: Sequence[Scenario],
    policies: Sequence[Policy],
    workers: int,
    state: _State,
    progress: Progress | None,
) -> None:
    """Spread runs over processes, policies of one run together."""
    with ExitStack() as stack:
        folders = [stack.enter_context(shared_folder(len(policies) > 1)) for _ in scenarios]
        items = [
            (place, number, folders[place])
            for place in range(len(scenarios))
            for number in range(len(policies))
        ]

        def told(done: int, total: int) -> None:
            if progress is not None:
                progress("runs", done, total)

        pool = stack.enter_context(
            processes(min(workers, len(items)), _prepare, (scenarios, policies, state.every))
        )
        left = [len(policies)] * len(scenarios)

        def take(place: int, done: Result | MoesimError) -> None:
            run, number, folder = items[place]
            state.take(run, number, done)
            left[run] -= 1
            if not left[run] and folder is not None:
                shutil.rmtree(folder, ignore_errors=True)  # nobody needs its loads any more

        pool.each(_run_in_worker, items, take, told)
