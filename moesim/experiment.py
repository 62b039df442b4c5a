"""From a scenario to results: build it, run it, compare policies on it."""

from __future__ import annotations

import multiprocessing
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TYPE_CHECKING

from moesim.engine import run
from moesim.engine.tables import tables
from moesim.errors import InputError, unknown_name
from moesim.results import Comparison, Result
from moesim.scenario import build

if TYPE_CHECKING:
    from moesim.policies.base import Policy
    from moesim.scenario import Scenario

Progress = Callable[[str, int, int], None]
"""Called with (what is going on, how much of it is done, how much there is)."""

_HEARTBEAT_S = 0.2


class Interrupted(KeyboardInterrupt):
    """Ctrl-C ended a run before its time.

    Attributes:
        done: what was finished: a result of the steps that ran, or a comparison of the policies that did.
        told: how much that is, for people.
    """

    def __init__(self, done: Result | Comparison, told: str) -> None:
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
    chosen = _choose(scenario, None if policy is None else [policy])[0]
    return _simulate(scenario, chosen, progress)


def _choose(scenario: Scenario, asked: Sequence[str | Policy] | None) -> Sequence[Policy]:
    """Return policies as they are, or built by name."""
    if asked is None:
        return build.build_policies(scenario, None)
    return [build.build_policies(scenario, [one])[0] if isinstance(one, str) else one for one in asked]


def _simulate(scenario: Scenario, policy: Policy, progress: Progress | None) -> Result:
    began = time.perf_counter()
    setup = build.build_setup(scenario, policy)

    def report(done: int, total: int) -> None:
        if progress is not None:
            progress(policy.name, done, total)

    recording = run(setup, report)
    steps, resolved = len(recording.steps), scenario.resolved()
    cut_short = steps < setup.workload.steps
    if cut_short:
        # A result says what it is the result of: a scenario of that many steps.
        resolved["workload"]["steps"] = steps
    parameters = {
        "placement": {"kind": policy.placement.name, **policy.placement.parameters.model_dump(mode="json")},
        "dispatch": {"kind": policy.dispatch.name, **policy.dispatch.parameters.model_dump(mode="json")},
    }
    if policy.refresh is not None:
        parameters["refresh"] = policy.refresh.model_dump(mode="json")
    result = Result.from_tables(
        tables(recording),
        name=scenario.name,
        policy=policy.name,
        parameters=parameters,
        scenario=resolved,
        seed=scenario.seed,
        wall_s=time.perf_counter() - began,
        notes=setup.notes,
        exact=policy.dispatch.exact,
    )
    if cut_short:
        raise Interrupted(result, f"these are {steps} of {setup.workload.steps} steps")
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
    chosen = _choose(scenario, policies)
    names = [policy.name for policy in chosen]
    _check_names(names, baseline)
    results: dict[str, Result] = {}
    try:
        if workers > 1 and len(chosen) > 1:
            _spread(scenario, chosen, workers, results, progress)
        else:
            for policy in chosen:
                results[policy.name] = _simulate(scenario, policy, progress)
    except KeyboardInterrupt:
        if not results:
            raise KeyboardInterrupt from None
        done = [results[name] for name in names if name in results]
        told = f"these are {len(done)} of {len(names)} policies"
        raise Interrupted(Comparison(done, baseline if baseline in results else None), told) from None
    return Comparison([results[name] for name in names], baseline)


def _check_names(names: Sequence[str], baseline: str | None) -> None:
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


def _spread(
    scenario: Scenario,
    chosen: Sequence[Policy],
    workers: int,
    results: dict[str, Result],
    progress: Progress | None,
) -> None:
    """Run policies in worker processes and collect their results by name.

    Raises:
        InputError: as a single run; of several failing policies the first one in order is told.
    """
    size = min(workers, len(chosen))
    with _pool(size) as pool:
        with _interrupts_ignored():  # for the workers to inherit: Ctrl-C is the parent's to handle
            futures = {pool.submit(_simulate, scenario, policy, None): policy.name for policy in chosen}
        waiting = set(futures)
        while waiting:
            finished, waiting = wait(waiting, timeout=_HEARTBEAT_S, return_when=FIRST_COMPLETED)
            for future in finished:
                if future.exception() is None:
                    results[futures[future]] = future.result()
            if progress is not None:
                progress("policies", len(futures) - len(waiting), len(futures))
        for future in futures:
            try:
                future.result()
            except BrokenProcessPool as error:
                message = "a worker process died, perhaps for want of memory"
                raise InputError(message, hint="use fewer workers") from error


@contextmanager
def _pool(size: int) -> Iterator[ProcessPoolExecutor]:
    """Give a pool of fresh processes, whose processes end at once when the block raises."""
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(size, mp_context=multiprocessing.get_context("spawn"), initializer=_begin)
    try:
        yield pool
    except BaseException:
        for child in multiprocessing.active_children():
            if child not in others:
                child.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _begin() -> None:
    """Make a worker quiet."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("ignore")


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may change how signals are handled
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
