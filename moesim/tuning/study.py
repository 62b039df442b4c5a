"""Optuna's samplers, asked batch by batch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from moesim.tuning.space import Dimension, Space
from moesim.tuning.trial import Trial

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.study import Study
    from optuna.trial import Trial as Drawn

POPULATION: Final = 16
"""Settings of one generation of NSGA-II."""

ENOUGH: Final = 10
"""Trials from which on importances are told."""

_MEMORY: Final = "memory"


@dataclass(frozen=True)
class Ask:
    """Settings that a sampler wants to know about."""

    drawn: Drawn
    settings: Mapping[str, Any]


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Optuna from talking."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(before)


class Search:
    """One study with a sampler that begins every batch from a random stream of its own."""

    def __init__(self, space: Space, study: Study, sampler: Callable[[int], BaseSampler], seed: int) -> None:
        self.space = space
        self.study = study
        self._sampler = sampler
        self._seed = seed
        self._distributions = {one.key: distribution(one) for one in space.dimensions}

    def ask(self, batch: int, count: int) -> list[Ask]:
        """Draw settings.

        Args:
            batch: number of the batch.
            count: how many.
        """
        from numpy.random import SeedSequence

        state = int(SeedSequence([self._seed, batch]).generate_state(1)[0])
        with quiet():
            self.study.sampler = self._sampler(state)
            drawn = [self.study.ask(self._distributions) for _ in range(count)]
        return [Ask(one, dict(one.params)) for one in drawn]

    def tell(self, asked: Ask, trial: Trial, excess: float) -> None:
        """Say what came of settings that were asked for."""
        from optuna.trial import TrialState

        with quiet():
            if trial.measured.failure is not None:
                self.study.tell(asked.drawn, state=TrialState.FAIL)
                return
            asked.drawn.set_constraint(_MEMORY, excess)
            self.study.tell(asked.drawn, values(self.study, trial))

    def add(self, trial: Trial, excess: float) -> None:
        """Say what came of other settings; those outside the ranges are passed over."""
        from optuna.trial import create_trial

        if trial.measured.failure is not None or not all(
            one.contains(trial.settings[one.key]) for one in self.space.dimensions
        ):
            return
        with quiet():
            made = create_trial(
                params=dict(trial.settings),
                distributions=self._distributions,
                values=values(self.study, trial),
                constraints={_MEMORY: excess},
            )
            self.study.add_trial(made)

    def begin_with(self, wanted: Sequence[Mapping[str, Any]]) -> None:
        """Have these settings asked for first."""
        with quiet():
            for settings in wanted:
                self.study.enqueue_trial(dict(settings))


class Studies:
    """Both searches."""

    def __init__(self, space: Space, seed: int) -> None:
        from optuna import create_study
        from optuna.samplers import TPESampler

        with quiet():
            study = create_study(direction="minimize")
        self.space = space
        self.seed = seed
        self.latency = Search(space, study, lambda state: TPESampler(seed=state, multivariate=True), seed)
        self._front: Search | None = None

    def add(self, trial: Trial, excess: Callable[[Trial], float]) -> None:
        """Tell the search for latency of a trial that it did not ask for."""
        self.latency.add(trial, excess(trial))

    def front(self, found: Sequence[Trial]) -> Search:
        """Return the search for the front, which begins with the best settings found so far."""
        if self._front is None:
            from optuna import create_study
            from optuna.samplers import NSGAIISampler

            with quiet():
                study = create_study(directions=["minimize", "minimize"])
            self._front = Search(
                self.space,
                study,
                lambda state: NSGAIISampler(seed=state, population_size=POPULATION),
                self.seed,
            )
            good = [
                trial
                for trial in pareto(found)
                if all(one.contains(trial.settings[one.key]) for one in self.space.dimensions)
            ]
            self._front.begin_with([trial.settings for trial in good[: POPULATION // 2]])
        return self._front


def values(study: Study, trial: Trial) -> list[float]:
    """Return the objectives of a trial: latency, and memory where the study has two."""
    measured = trial.measured
    both = [float(measured.latency_s or 0.0), float(measured.peak_memory_bytes or 0)]
    return both[: len(study.directions)]


def distribution(one: Dimension) -> BaseDistribution:
    """Return a parameter's range as Optuna writes it."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if one.choices:
        return CategoricalDistribution(one.choices)
    if one.whole:
        return IntDistribution(int(one.low), int(one.high), log=one.log)
    return FloatDistribution(one.low, one.high, log=one.log)


def pareto(trials: Sequence[Trial]) -> list[Trial]:
    """Return the feasible trials that no other beats in latency and memory at once, fastest first."""
    able = [trial for trial in trials if trial.feasible]
    able.sort(key=lambda t: (t.measured.latency_s, t.measured.peak_memory_bytes, t.number))
    front: list[Trial] = []
    for trial in able:
        if not front or (trial.measured.peak_memory_bytes or 0) < (front[-1].measured.peak_memory_bytes or 0):
            front.append(trial)
    return front


def importances(space: Space, trials: Sequence[Trial]) -> dict[str, float]:
    """Return how much each parameter decides whether latency is among the best tenth; they sum to 1.

    PED-ANOVA (Watanabe et al., arXiv 2304.10255). Empty where too few settings were tried to tell.
    """
    from optuna import create_study
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    with quiet():
        study = create_study(direction="minimize")
        search = Search(space, study, lambda state: study.sampler, 0)
        for trial in trials:
            if trial.measured.latency_s is not None:
                search.add(trial, 0.0)
        told = {trial.value for trial in study.trials}
        if len(study.trials) < ENOUGH or len(told) < 2:
            return {}
        found = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    return {one.key: float(found.get(one.key, 0.0)) for one in space.dimensions}
