"""Searching a policy's parameters: the lowest latency, and what latency and memory trade.

Trial 0 has the policy's own settings. Two of three batches of trials look for the lowest mean latency
within the memory limit (tree-structured Parzen estimator), the third for the front of latency and memory
(NSGA-II, which starts from the best settings so far); where settings make no difference to memory, all look
for latency. If there are no more settings than trials, all are tried.

Batches have ``BATCH`` trials, whatever the number of workers, and every batch draws from a random stream of
its own: any number of workers finds the same. A resumed search goes through the same trials again and runs
only those that have not been measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from moesim.errors import InputError
from moesim.experiment import Bench, Progress, shared_folder
from moesim.scenario.policy import build_policy
from moesim.tuning.folder import Folder
from moesim.tuning.given import given_settings
from moesim.tuning.limits import check_limit
from moesim.tuning.outcome import Outcome
from moesim.tuning.space import Space, space_of
from moesim.tuning.study import Studies
from moesim.tuning.trial import Measured, Trial, measure, measure_in_worker, prepare
from moesim.units import format_bytes, parse
from moesim.workers import workers as processes

if TYPE_CHECKING:
    from moesim.policies.base import Policy
    from moesim.scenario import Scenario

BATCH: Final = 8
"""Trials that are drawn before the first of them is told."""

CYCLE: Final = 3
"""Every third batch looks for the front."""

INSTALL: Final = "pip install 'moesim[tune]'"

Take = Callable[[Mapping[str, Any], Measured], None]
Evaluate = Callable[[Sequence[Mapping[str, Any]], Take], None]


class TuningInterrupted(KeyboardInterrupt):
    """Ctrl-C ended a search before its time.

    Attributes:
        done: what was found until then.
        told: how much that is, for people.
    """

    def __init__(self, done: Outcome, told: str) -> None:
        super().__init__(done, told)
        self.done = done
        self.told = told


def tune(
    scenario: Scenario,
    policy: str | Policy,
    parameters: Sequence[str] | None = None,
    trials: int = 60,
    memory_limit: str | float | None = None,
    workers: int = 1,
    seed: int = 0,
    out: str | Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Outcome:
    """Search a policy's parameters for the lowest mean latency of a step under a memory limit.

    Args:
        scenario: what to run.
        policy: a policy, or a text such as ``llep`` or ``eplb(redundant=32)+llep``; parameters that the
            text gives are not searched.
        parameters: parameters to search, each a name and maybe a range as in ``alpha=0.8:2:log``; by
            default all that have a range.
        trials: how many settings to try, the policy's own included.
        memory_limit: most bytes that a device may hold at its peak, such as ``70 GiB``; by default what
            it has.
        workers: processes to spread trials over; the result is the same for any number.
        seed: seed of the search, apart from the scenario's.
        out: directory for trials, best settings and plots.
        resume: go on with the search that ``out`` holds.
        progress: called after every batch with ("trials", trials done, trials in all).

    Raises:
        InputError: the scenario cannot run, an unknown policy or parameter, nothing to tune, no settings
            within the memory limit, a directory that cannot be used, or Optuna is missing.
        TuningInterrupted: Ctrl-C after the first trial; holds what was found.
    """
    if find_spec("optuna") is None:
        message = "tuning needs optuna"
        raise InputError(message, hint=INSTALL)
    if trials < 2:
        message = f"a search needs at least 2 trials, got {trials}"
        raise InputError(message)
    chosen = build_policy(scenario, policy) if isinstance(policy, str) else policy
    bench = Bench(scenario)
    view = bench.setup(chosen).view
    fixed = given_settings(scenario, policy, chosen) if isinstance(policy, str) else frozenset()
    search = _Search(
        space=space_of(chosen, view, parameters, fixed),
        policy=chosen,
        scenario=scenario,
        trials=trials,
        limit=_bytes(memory_limit),
        seed=seed,
    )
    with ExitStack() as stack:
        folder = Folder.open(out, resume, search.meta) if out is not None else None
        evaluate = stack.enter_context(_evaluator(scenario, chosen, workers))
        try:
            _go(search, evaluate, folder, progress)
        except KeyboardInterrupt:
            if not search.found:
                raise
            outcome = search.outcome()
            _keep(outcome, folder)
            told = f"these are {len(search.found)} of {search.trials} trials"
            raise TuningInterrupted(outcome, told) from None
    outcome = search.outcome()
    _keep(outcome, folder)
    if outcome.best is None:
        raise _infeasible(search)
    return outcome


@dataclass
class _Search:
    """What is searched, and what was found."""

    space: Space
    policy: Policy
    scenario: Scenario
    trials: int
    limit: float | None
    seed: int
    found: list[Trial] = field(default_factory=list)
    known: dict[tuple[Any, ...], Measured] = field(default_factory=dict)

    @property
    def meta(self) -> dict[str, Any]:
        """What must be the same when a search is resumed."""
        return {
            "scenario": self.scenario.name,
            "scenario_sha256": self.scenario.hash,
            "policy": self.policy.name,
            "parameters": {one.key: one.text for one in self.space.dimensions},
            "memory_limit_bytes": self.limit,
            "seed": self.seed,
        }

    def key(self, settings: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return what makes settings equal."""
        return tuple(settings[one.key] for one in self.space.dimensions)

    def excess(self, trial: Trial) -> float:
        """Return how far a trial is beyond the memory limit, as a share of it; 0 or less: within."""
        measured = trial.measured
        if measured.peak_memory_bytes is None:
            return 1.0
        over = measured.peak_memory_bytes / self.limit - 1.0 if self.limit is not None else 0.0
        return max(over, 1e-9) if not trial.feasible else min(over, 0.0)

    def take(self, phase: str, settings: Mapping[str, Any]) -> Trial:
        """Note a trial that has been measured."""
        measured = self.known[self.key(settings)]
        fits = measured.failure is None and not measured.out_of_memory
        if fits and self.limit is not None:
            fits = (measured.peak_memory_bytes or 0) <= self.limit
        trial = Trial(len(self.found), phase, dict(settings), measured, fits)
        self.found.append(trial)
        return trial

    def outcome(self) -> Outcome:
        """Return what was found."""
        return Outcome(self.scenario, self.policy, self.space, self.limit, self.seed, tuple(self.found))

    @property
    def tried(self) -> set[tuple[Any, ...]]:
        """Settings of the trials so far."""
        return {self.key(trial.settings) for trial in self.found}

    @property
    def memory_varies(self) -> bool:
        """Whether settings make a difference to memory."""
        return len({trial.measured.peak_memory_bytes for trial in self.found if trial.feasible}) > 1


def _go(search: _Search, evaluate: Evaluate, folder: Folder | None, progress: Progress | None) -> None:
    """Run trials batch by batch; what an earlier search measured is not measured again."""
    studies = Studies(search.space, search.seed)
    if folder is not None:
        search.known |= {search.key(settings): measured for settings, measured in folder.known()}

    def batch(phase: str, wanted: Sequence[Mapping[str, Any]]) -> list[Trial]:
        missing = {key: one for one in wanted if (key := search.key(one)) not in search.known}

        def take(settings: Mapping[str, Any], measured: Measured) -> None:
            search.known[search.key(settings)] = measured
            if folder is not None:
                folder.add(settings, measured)

        evaluate(list(missing.values()), take)
        trials = [search.take(phase, one) for one in wanted]
        if progress is not None:
            progress("trials", len(search.found), search.trials)
        return trials

    defaults = {one.key: one.default for one in search.space.dimensions}
    studies.add(batch("default", [defaults])[0], search.excess)
    check_limit(search.found[0], search.policy, search.limit)
    grid = search.space.grid(search.trials)
    if grid is not None:
        wanted = [settings for settings in grid if search.key(settings) not in search.tried]
        search.trials = 1 + len(wanted)
        for start in range(0, len(wanted), BATCH):
            batch("grid", wanted[start : start + BATCH])
        return
    number = 0
    while (left := search.trials - len(search.found)) > 0:
        front = number % CYCLE == CYCLE - 1 and search.memory_varies
        study = studies.front(search.found) if front else studies.latency
        asked = study.ask(number, min(BATCH, left))
        trials = batch("front" if front else "latency", [one.settings for one in asked])
        for one, trial in zip(asked, trials, strict=True):
            study.tell(one, trial, search.excess(trial))
        if front:
            for trial in trials:
                studies.add(trial, search.excess)
        number += 1


@contextmanager
def _evaluator(scenario: Scenario, policy: Policy, workers: int) -> Iterator[Evaluate]:
    """Give a function that runs settings, in this process or in others."""
    with shared_folder() as loads:
        if workers == 1:
            bench = Bench(scenario, loads)

            def alone(wanted: Sequence[Mapping[str, Any]], take: Take) -> None:
                for settings in wanted:
                    take(settings, measure(bench, policy, settings))

            yield alone
            return
        with processes(min(workers, BATCH), prepare, (scenario, loads, policy)) as pool:

            def spread(wanted: Sequence[Mapping[str, Any]], take: Take) -> None:
                pool.each(measure_in_worker, wanted, lambda place, done: take(wanted[place], done))

            yield spread


def _keep(outcome: Outcome, folder: Folder | None) -> None:
    if folder is not None:
        folder.write(outcome)


def _bytes(limit: str | float | None) -> float | None:
    """Read a memory limit.

    Raises:
        InputError: not a size above 0.
    """
    if limit is None:
        return None
    try:
        size = parse(limit, "B")
    except ValueError as error:
        raise InputError(f"the memory limit is not a size: {error}", hint="for example 70 GiB") from None
    if size <= 0:
        message = "the memory limit must be above 0"
        raise InputError(message)
    return size


def _infeasible(search: _Search) -> InputError:
    """Build the error for a search in which nothing stayed within memory."""
    peaks = [trial.measured.peak_memory_bytes for trial in search.found]
    sizes = [peak for peak in peaks if peak is not None]
    if not sizes:
        message = f"policy '{search.policy.name}' cannot run with any of {len(peaks)} settings"
        return InputError(message, hint=search.found[0].measured.failure)
    limit = "the devices' memory" if search.limit is None else f"the limit of {format_bytes(search.limit)}"
    message = f"none of {len(peaks)} settings of '{search.policy.name}' stays within {limit}"
    return InputError(message, hint=f"the least that one needs is {format_bytes(min(sizes))}")
