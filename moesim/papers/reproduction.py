"""Predict published figures and put them beside the published numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from moesim.engine.overlap import Overlap
from moesim.errors import InputError
from moesim.experiment import Bench, choose, simulate
from moesim.papers.offloading import OF_RUN, OF_SETUP, OF_TWO
from moesim.papers.paper import Figure, Paper, load_paper, paper_names
from moesim.papers.roofline import ROOFLINE
from moesim.policies.journeys import copies_per_token, homes, hop_share
from moesim.results.tails import exchange_tail_s, experts_tail_s
from moesim.routing.generators.affinity import AffinityGenerator
from moesim.routing.load import IntArray
from moesim.scenario import Scenario, loads_scenario

if TYPE_CHECKING:
    import pandas as pd

    from moesim.engine.setup import Setup
    from moesim.results import Result

Progress = Callable[[int, int], None]
Point = tuple[float | int | str | tuple[int, ...], ...]

_TOKENS: Final = 8192
"""Tokens whose journeys are followed."""

_COMPUTING: Final = ("attention", "dense", "gate", "permute", "experts", "unpermute")
"""Causes of time in which a device computes."""

_GIVEN: Final = "given."
"""Start of axes that are arguments of a quantity."""

COLUMNS = ("paper", "figure", "point", "unit", "published", "predicted", "relative_error", "mark", "note")


def reproduce(paper: str | None = None, progress: Progress | None = None) -> pd.DataFrame:
    """Predict every published point of a paper, or of all papers.

    Args:
        paper: name of the paper; all of them if None.
        progress: called after each point with (points done, points in all).

    Returns:
        One row per point: paper, figure, point, unit, published, predicted, relative_error (predicted
        over published minus 1), mark (how the published number was seen) and note.

    Raises:
        InputError: there is no such paper.
    """
    import pandas as pd

    papers = [load_paper(name) for name in ([paper] if paper is not None else paper_names())]
    total = sum(len(figure.points) for one in papers for figure in one.figures)
    rows: list[dict[str, Any]] = []
    for one in papers:
        runs = _Runs(one)
        for figure in one.figures:
            for point in figure.points:
                rows.append(_row(one, figure, point, runs))
                if progress is not None:
                    progress(len(rows), total)
    return pd.DataFrame(rows, columns=list(COLUMNS))


class _Runs:
    """Runs of one paper's scenarios, each distinct one once."""

    def __init__(self, paper: Paper) -> None:
        self.paper = paper
        self.known: dict[str, Result] = {}
        self.setups: dict[str, Setup] = {}

    def run(self, scenario: str, settings: dict[str, Any], policy: str) -> Result:
        """Run a policy in a scenario with settings changed."""
        key = json.dumps([scenario, settings, policy], sort_keys=True)
        if key not in self.known:
            self.known[key] = simulate(self.scenario(scenario, settings), policy=policy)
        return self.known[key]

    def scenario(self, scenario: str, settings: dict[str, Any]) -> Scenario:
        """Load a scenario with settings changed."""
        overrides = [f"{name}={json.dumps(value)}" for name, value in settings.items()]
        text = json.dumps(self.paper.scenarios[scenario])
        return loads_scenario(text, overrides=overrides, file=f"{self.paper.paper}.yaml")

    def setup(self, scenario: str, settings: dict[str, Any], policy: str) -> Setup:
        """Return everything a run would use."""
        key = json.dumps([scenario, settings, policy], sort_keys=True)
        if key not in self.setups:
            loaded = self.scenario(scenario, settings)
            self.setups[key] = Bench(loaded).setup(choose(loaded, [policy])[0])
        return self.setups[key]

    def journey(self, scenario: str, settings: dict[str, Any], policy: str) -> tuple[IntArray, IntArray]:
        """Return tokens' experts in a step that placement has not seen, and where a policy places them."""
        setup = self.setup(scenario, settings, policy)
        if not isinstance(setup.routing, AffinityGenerator):
            message = "journeys of tokens need a routing that draws tokens"
            raise InputError(message, hint="use the generator 'affinity'")
        return setup.routing.tokens(0, _TOKENS), homes(setup.rank_placement)


def _row(paper: Paper, figure: Figure, point: Point, runs: _Runs) -> dict[str, Any]:
    *values, last = point
    published = float(str(last))
    settings = dict(figure.settings)
    policy = figure.policy
    given = dict(figure.given)
    for axis, value in zip(figure.axes, values, strict=True):
        if axis == "policy":
            policy = str(value)
        elif axis.startswith(_GIVEN):
            given[axis.removeprefix(_GIVEN)] = value
        else:
            settings[axis] = value
    predicted = _predict(figure, runs, settings, policy, given)
    return {
        "paper": paper.paper,
        "figure": figure.figure,
        "point": ", ".join(
            f"{axis.split('.')[-1]}={value}" for axis, value in zip(figure.axes, values, strict=True)
        ),
        "unit": figure.unit,
        "published": published,
        "predicted": predicted,
        "relative_error": predicted / published - 1.0,
        "mark": figure.mark,
        "note": figure.note,
    }


def _predict(
    figure: Figure, runs: _Runs, settings: dict[str, Any], policy: str, given: dict[str, Any]
) -> float:
    if figure.quantity in ROOFLINE:
        return ROOFLINE[figure.quantity](given)
    if figure.quantity in OF_SETUP:
        return OF_SETUP[figure.quantity](runs.setup(figure.scenario, settings, policy), given)
    before = settings | figure.baseline_settings
    if figure.quantity == "copies_per_token":
        return copies_per_token(*runs.journey(figure.scenario, settings, policy))
    if figure.quantity == "hop_reduction":
        after = hop_share(*runs.journey(figure.scenario, settings, policy))
        return 1.0 - after / hop_share(*runs.journey(figure.scenario, before, figure.baseline))
    result = runs.run(figure.scenario, settings, policy)
    if figure.quantity in OF_RUN:
        return OF_RUN[figure.quantity](result)
    if figure.quantity == "peak_memory_gib":
        return float(result.peak_memory_bytes) / 2**30
    if figure.quantity == "latency_ms":
        return result.latency_s["mean"] * 1e3
    if figure.quantity == "rank_excess":
        return result.imbalance - 1.0
    if figure.quantity in ("dispatch_us", "combine_us", "experts_us"):
        return _seconds_each(result, figure.quantity.removesuffix("_us")) * 1e6
    if figure.quantity == "computing_ms":
        return sum(result.breakdown_s[cause] for cause in _COMPUTING) * 1e3
    if figure.quantity == "communicating_ms":
        busy = result.layers[["dispatch_busy_s", "combine_busy_s"]].to_numpy()
        return float(busy.sum()) / len(result.steps) * 1e3
    if figure.quantity == "tokens_per_s_per_device":
        return result.throughput_tokens_per_s / result.memory["device"].nunique()
    baseline = runs.run(figure.scenario, before, figure.baseline)
    if figure.quantity in OF_TWO:
        return OF_TWO[figure.quantity](result, baseline)
    if figure.quantity == "experts_tail_reduction":
        return 1.0 - experts_tail_s(result) / experts_tail_s(baseline)
    if figure.quantity == "exchange_tail_reduction":
        return 1.0 - exchange_tail_s(result) / exchange_tail_s(baseline)
    return baseline.latency_s["mean"] / result.latency_s["mean"]


def _seconds_each(result: Result, what: str) -> float:
    """Return the mean time of one dispatch, combine or layer of experts of a micro-batch, hidden or not.

    Of a training step, experts run in the forward pass, for gradients of inputs and for gradients of weights.
    """
    lasts = result.layers["experts_s" if what == "experts" else f"{what}_busy_s"]
    overlap = Overlap(result.scenario["overlap"]["kind"])
    times = overlap.passes if overlap.trains and what == "experts" else overlap.batches
    return float(lasts[lasts > 0].mean()) / times
