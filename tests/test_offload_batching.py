"""Batches that are made anew for fewer experts, and experts that the CPU begins a layer early."""

from __future__ import annotations

import numpy as np
import pytest

import moesim
from moesim.engine.offload.demand import Demands, iterations
from moesim.errors import InputError
from moesim.policies.misses.base import Needed
from moesim.policies.registry import create_misses
from moesim.routing.generators import create_generator
from moesim.scenario import loads_scenario
from moesim.workload.steps import Requests, Workload

SCENARIO = """
name: batches
model: {name: Mixtral-8x7B, layers: 4}
cluster: RTX-4090-workstation
routing: {generator: local, topic: 1.5}
workload: {tokens_per_device: 8, requests: {count: 2, prompt: 4, output: 12}}
policies: [{name: on_demand, offload: {slots: 3}}]
"""


def demands(regrouped: bool, count: int = 2, sequences: int = 6, output: int = 5):
    workload = Workload("decode", 1, sequences, 1, requests=Requests(count, 3, output))
    source = create_generator("local", experts=8, top_k=2, layers=3, seed=4, topic=1.5)
    asked = Demands(source, workload, 1, sequences, 8, None, weighted=False, regrouped=regrouped)
    return [
        (iteration, asked.of(iteration)) for iteration in iterations(workload, sequences, paired=regrouped)
    ]


def tokens_of(demand) -> list[bytes]:
    return sorted(token.tobytes() for token in np.sort(demand.ids, axis=2))


def test_groups_take_turns_in_pairs_and_the_last_of_an_odd_number_runs_by_itself():
    workload = Workload("decode", 1, 1, 1, requests=Requests(3, 2, 3))
    order = [(one.group, one.phase, one.first) for one in iterations(workload, 1, paired=True)]
    assert order == [
        *((0, "prefill", 0), (1, "prefill", 0), (0, "decode", 2), (1, "decode", 2)),
        *((0, "decode", 3), (1, "decode", 3)),
        *((2, "prefill", 0), (2, "decode", 2), (2, "decode", 3)),
    ]
    assert [one.number for one in iterations(workload, 1, paired=True)] == list(range(9))


def test_regrouped_batches_have_the_same_tokens_and_need_fewer_experts():
    plain = {(it.group, it.phase, it.first): found for it, found in demands(False)}
    mixed = {(it.group, it.phase, it.first): found for it, found in demands(True)}
    assert plain.keys() == mixed.keys()
    before = after = 0
    for (group, phase, first), found in mixed.items():
        if phase == "prefill":
            assert tokens_of(found) == tokens_of(plain[group, phase, first])
        elif group == 0:
            both = tokens_of(found) + tokens_of(mixed[1, phase, first])
            given = tokens_of(plain[0, phase, first]) + tokens_of(plain[1, phase, first])
            assert sorted(both) == sorted(given)
            assert len(found.ids) == 6
        if phase == "decode":
            before += int((plain[group, phase, first].copies > 0).sum())
            after += int((found.copies > 0).sum())
    assert after < before


def test_regrouping_in_a_run_asks_for_no_more_experts_and_as_many_copies():
    scenario = loads_scenario(SCENARIO)
    plain, mixed = (
        moesim.simulate(scenario, f"on_demand(slots=3, regroup={told})") for told in ("false", "true")
    )
    assert plain.steps["copies"].sum() == mixed.steps["copies"].sum()
    asked = [run.tables["iterations"]["accesses"].sum() for run in (plain, mixed)]
    assert asked[1] < asked[0]
    assert plain.exact
    assert mixed.exact


def needed(iteration: int, layer: int, prefill: bool = False) -> Needed:
    return Needed(
        experts=(3, 1, 6),
        tokens=(1, 1, 1),
        there=(False, True, False),
        absent=(),
        prefill=prefill,
        cpu=lambda tokens: 2.0 * tokens,
        gpu=lambda tokens: 1.0,
        load=5.0,
        iteration=iteration,
        layer=layer,
    )


def test_daop_loads_in_prompts_and_foretells_as_often_as_it_is_told():
    policy = create_misses("daop", {"accuracy": 0.7})
    assert policy.choose(needed(0, 5, prefill=True)).loads == (3, 6)
    early = 0
    for iteration in range(1000):
        choice = policy.choose(needed(iteration, 5))
        assert (choice.loads, choice.cpu) == ((), (3, 6))
        assert set(choice.early) <= {3, 6}
        early += len(choice.early)
    assert abs(early - 1400) < 5 * np.sqrt(2000 * 0.7 * 0.3)
    assert policy.choose(needed(7, 0)).early == (), "nothing comes before the first layer"
    assert not policy.exact


def test_a_layer_early_the_cpu_hides_behind_the_device():
    scenario = loads_scenario(
        SCENARIO, overrides=["workload.tokens_per_device=1", "workload.requests.output=40"]
    )
    late, early = (moesim.simulate(scenario, f"daop(slots=2, accuracy={told})") for told in ("0", "1"))
    waits = [run.breakdown_s["cpu_experts"] for run in (late, early)]
    assert waits[1] < waits[0]
    assert late.changed_tokens == 0
    assert early.changed_tokens > 0
    for run in (late, early):
        busy = run.spans[run.spans["stream"] == "cpu"].sort_values("start_s")
        assert (busy["start_s"].to_numpy()[1:] >= busy["end_s"].to_numpy()[:-1] - 1e-12).all()


@pytest.mark.parametrize("told", ["-0.1", "1.5"])
def test_an_accuracy_is_a_share(told):
    with pytest.raises(InputError, match="accuracy"):
        moesim.simulate(loads_scenario(SCENARIO), f"daop(slots=3, accuracy={told})")
