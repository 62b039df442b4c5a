"""Capacity factors: what is dropped, what goes elsewhere, and what of it reaches the results."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import moesim
from moesim.policies.dispatch.capacity import Capacity, CapacityParameters, capacity_of, changed_tokens
from moesim.policies.dispatch.standard import Standard
from moesim.policies.plan import Placement
from moesim.results import Result
from moesim.results.render import render_comparison, render_result
from moesim.results.report.fragments import figures_of, policy_table
from moesim.scenario import loads_scenario
from moesim.testing import dispatch_inputs, make_load, make_view
from moesim.testing.common import same


def policy(factor: float, overflow: str = "drop") -> Capacity:
    return Capacity(CapacityParameters(factor=factor, overflow=overflow))


def place(*devices: list[int], experts: int) -> Placement:
    return Placement(np.asarray([devices], dtype=np.int64), experts)


def test_the_capacity_is_an_even_share_times_the_factor_rounded_up():
    assert capacity_of(np.asarray([100, 101, 0]), 8, 1.25).tolist() == [16, 16, 0]
    assert capacity_of(np.asarray([10]), 1, 1.1).tolist() == [11]


def test_copies_above_the_capacity_are_dropped_in_proportion():
    load = make_load([[[30, 2], [10, 6]]], 2)
    plan = policy(1.0).plan(load, place([0], [1], experts=2), make_view(2, 2))
    # Of the 40 copies of expert 0, 24 are computed: 18 of 30 and 6 of 10.
    assert plan.traffic.dense()[0].tolist() == [[18, 2], [6, 6]]
    assert plan.dropped.tolist() == [16]
    assert plan.changed.tolist() == [16]


def test_rerouted_copies_go_to_experts_of_their_own_device_first():
    placement = place([0, 1], [2, 3], experts=4)
    load = make_load([[[20, 2, 0, 2], [8, 0, 0, 8]]], 2)
    plan = policy(1.0, "reroute").plan(load, placement, make_view(2, 4))
    # Ten copies per expert: source 0 gives up 13 of its 20 copies, source 1 five. Eight stay on device 0 with
    # expert 1, and all of source 1 on device 1 with expert 2; the other five travel to expert 2.
    done = plan.assignments.per_expert(1, 4).tolist()
    assert done == [[10, 10, 10, 10]]
    assert plan.dropped.tolist() == [0]
    assert plan.changed.tolist() == [18]
    assert plan.traffic.dense()[0].tolist() == [[17, 7], [3, 13]]


def test_without_room_rerouted_copies_are_dropped():
    load = make_load([[[20, 4], [20, 4]]], 2)
    plan = policy(0.5, "reroute").plan(load, place([0], [1], experts=2), make_view(2, 2))
    assert plan.assignments.per_expert(1, 2).tolist() == [[12, 12]]
    assert plan.dropped.tolist() == [24]
    assert plan.changed.tolist() == [28]


@given(dispatch_inputs(), st.floats(0.05, 4), st.sampled_from(["drop", "reroute"]))
def test_no_expert_computes_more_than_its_capacity(case, factor, overflow):
    load = case.load
    plan = policy(factor, overflow).plan(load, case.placement, case.view)
    asked = load.per_expert
    most = capacity_of(asked.sum(axis=1), load.experts, factor)[:, np.newaxis]
    done = plan.assignments.per_expert(load.layers, load.experts)
    assert (done <= most).all()
    assert (done >= np.minimum(asked, most)).all()
    if overflow == "reroute":
        full = (done == most).all(axis=1)
        assert (full | (plan.dropped == 0)).all()
    else:
        np.testing.assert_array_equal(plan.dropped, np.maximum(asked - most, 0).sum(axis=1))


@given(dispatch_inputs(), st.sampled_from(["drop", "reroute"]))
def test_a_large_capacity_changes_nothing(case, overflow):
    plan = policy(1e3, overflow).plan(case.load, case.placement, case.view)
    standard = Standard().plan(case.load, case.placement, case.view)
    assert not plan.dropped.any()
    assert not plan.changed.any()
    assert same(plan.assignments, standard.assignments)
    assert same(plan.traffic, standard.traffic)


def test_tokens_changed_are_those_with_at_least_one_copy_affected():
    affected, copies = np.asarray([0, 1, 400, 800]), np.full(4, 800)
    # Half of the copies of 100 tokens with eight each: a token keeps all of its own once in 256 cases.
    assert changed_tokens(affected, copies, 100, 8).tolist() == [0, 1, 100, 100]
    assert changed_tokens(np.asarray([80]), np.asarray([800]), 100, 8).tolist() == [57]


SCENARIO = """
name: limited
model: {num_layers: 2, hidden_size: 64, vocab_size: 128, num_routed_experts: 8, moe_intermediate_size: 32,
        top_k: 2, attention: {kind: gqa, heads: 2, kv_heads: 1, head_dim: 32}}
cluster: {device: {base: H200-SXM}, devices_per_node: 4, nodes: 1,
          intra: {kind: nvlink, bandwidth: 450 GB/s, efficiency: 0.7, latency: 2 us}}
routing: {generator: zipf, exponent: 1.2}
workload: {phase: prefill, steps: 2, tokens_per_device: 6400, context: 64}
policies:
  - ep
  - {name: drops, dispatch: {kind: capacity, factor: 1.0}}
  - {name: moves, dispatch: {kind: capacity, factor: 1.0, overflow: reroute}}
  - {name: wide, dispatch: {kind: capacity, factor: 8}}
seed: 1
"""


@pytest.fixture(scope="module")
def compared():
    return moesim.compare(loads_scenario(SCENARIO))


def test_dropped_copies_and_changed_tokens_reach_tables_and_summaries(compared):
    ep, drops, moves, wide = compared.results
    asked = 2 * 2 * 2 * 4 * 6400  # steps, layers, experts per token, devices, tokens
    for result in (ep, moves, wide):
        assert result.summary()["dropped_copies"] == 0
        assert result.steps["copies"].sum() == asked
    assert drops.dropped_copies > 0.1 * asked
    assert drops.steps["copies"].sum() + drops.dropped_copies == asked
    assert drops.steps["dropped_copies"].sum() == drops.summary()["dropped_copies"]
    assert drops.changed_tokens == moves.changed_tokens == drops.steps["changed_tokens"].sum() > 0
    assert drops.changed_tokens <= drops.dropped_copies
    assert wide.changed_tokens == ep.changed_tokens == 0


def test_comparisons_say_which_policies_are_exact(compared):
    assert compared.table["exact"].tolist() == [True, False, False, False]
    assert [one["exact"] for one in compared.to_dict()["policies"]] == [True, False, False, False]
    assert compared.table.loc["drops", "dropped_copies"] == compared["drops"].dropped_copies
    assert policy_table(compared).count("<td>no</td>") == 3
    assert ("changed tokens", f"{compared['drops'].changed_tokens:,}") in figures_of(compared["drops"])


def test_words_tell_what_is_dropped(compared):
    said = "\n".join(compared.explain())
    before, after = said.split("drops is", 1)
    assert "output:" not in before
    assert f"{compared['drops'].dropped_copies:,} of 204,800 copies are dropped" in after
    assert "nothing was dropped or moved here" in said.split("wide is")[1]


def printed(renderable) -> str:
    from io import StringIO

    from rich.console import Console

    out = StringIO()
    Console(file=out, width=100).print(renderable)
    return " ".join(out.getvalue().split())


def test_the_terminal_tells_it_too(compared):
    assert "output: not the model's own" in printed(render_result(compared["drops"]))
    assert "output:" not in printed(render_result(compared["ep"]))
    assert printed(render_comparison(compared)).count("output: not the model's own") == 2


def test_dropping_saves_time_and_no_bound_is_above_it(compared):
    assert compared.speedup(compared["drops"]) > 1
    for result in compared.results:
        assert (result.steps["bound_s"] <= result.steps["latency_s"]).all()
    assert compared["drops"].bound_s < compared["ep"].bound_s


def test_exactness_is_saved_and_read_again(compared, tmp_path):
    from moesim.results import load_result

    compared["drops"].save(tmp_path / "run", timing=False)
    again = load_result(tmp_path / "run")
    assert not again.exact
    assert again.summary(timing=False) == compared["drops"].summary(timing=False)


@pytest.mark.parametrize("more", ["overlap: two_batch", "parallelism: {attention_tp: 2, expert_tp: 2}"])
def test_micro_batches_and_shared_experts_count_the_same(more):
    result: Result = moesim.simulate(loads_scenario(SCENARIO + more), "drops")
    asked = 2 * 2 * 2 * 4 * 6400
    assert result.steps["copies"].sum() + result.dropped_copies == asked
    assert 0 < result.changed_tokens <= result.dropped_copies
