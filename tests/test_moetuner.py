"""MoETuner's two stages: exact where small, bounded where not, and honest about which."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations, permutations, product
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.cli import main
from moesim.policies import create_placement
from moesim.policies.past import Past
from moesim.policies.placement import mapping
from moesim.policies.placement.clustering import cluster
from moesim.policies.placement.clustering_exact import enumerate_clusters, with_highs
from moesim.policies.placement.mapping import levels, map_clusters
from moesim.policies.placement.mapping_search import bound_of, costs_of, search
from moesim.policies.placement.moetuner import solve
from moesim.testing import make_view

GOLDENS = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "goldens" / "moetuner_small.json"


@pytest.mark.skipif(not GOLDENS.is_file(), reason="the shared golden cases are not here")
@pytest.mark.parametrize("solver", ["auto", "highs"])
def test_golden_objectives(solver):
    for case in json.loads(GOLDENS.read_text())["cases"]:
        given_, wanted = case["inputs"], case["outputs"]
        loads, onward, bandwidth = (
            np.asarray(given_[key]) for key in ("expert_tokens", "transitions", "bandwidth")
        )
        found = solve(loads, onward, bandwidth, solver=solver)
        stage1 = [stage.objective for stage in found.balance]
        assert stage1 == wanted["stage1_objective_per_layer"], case["name"]
        assert found.optimal
        assert found.gap == 0
        # Stage 2 depends on which of several best clusterings it is given.
        member = np.zeros((*loads.shape, given_["num_gpus"]))
        for layer, clusters in enumerate(wanted["stage1_one_optimal_clustering"]):
            for number, experts in enumerate(clusters):
                member[layer, experts, number] = 1
        traffic = np.einsum("lec,lef,lfd->lcd", member[:-1], onward, member[1:])
        assert traffic.tolist() == case["derived"]["cluster_traffic"]
        for objective, key in (("sum", "sum_over_layers_of_max_pair_cost"), ("max", "max_over_layers")):
            mapped = map_clusters(traffic, bandwidth, objective)
            assert mapped.objective == pytest.approx(wanted[f"stage2_objective_{key}"], rel=1e-12)
            assert mapped.optimal


def partitions(experts, sizes):
    """List all ways to split experts into groups of such sizes, for checking only."""
    if not sizes:
        yield []
        return
    first = experts[:1]
    for size in sorted(set(sizes)):
        rest_sizes = list(sizes)
        rest_sizes.remove(size)
        if size == 0:
            yield from ([[], *more] for more in partitions(experts, rest_sizes))
        elif experts:
            for others in combinations(experts[1:], size - 1):
                group = [*first, *others]
                rest = [e for e in experts if e not in group]
                yield from ([group, *more] for more in partitions(rest, rest_sizes))


@settings(max_examples=60, deadline=None)
@given(
    loads=st.lists(st.integers(0, 60), min_size=1, max_size=8),
    count=st.integers(1, 5),
    scale=st.sampled_from([1, 7, 1 << 33]),
)
def test_small_clusterings_are_the_best_of_all(loads, count, scale):
    loads = np.asarray(loads) * scale
    problem, found, bound = cluster(loads, count)
    least = min(problem.value(one) for one in partitions(list(range(loads.size)), problem.sizes))
    assert bound <= least <= problem.value(found)
    best = found if problem.value(found) == bound else enumerate_clusters(problem, found)
    assert best is not None
    assert problem.value(best) == least
    assert sorted(map(len, best)) == sorted(problem.sizes)
    assert sorted(e for group in best for e in group) == list(range(loads.size))
    asked, proven, cut_short = with_highs(problem, found, bound, 20.0)
    assert not cut_short
    assert problem.value(asked) == proven == least
    mean = loads.sum() / count
    by_hand = sum(abs(loads[group].sum() - mean) for group in map(np.asarray, best) if group.size)
    by_hand += mean * sum(not group for group in best)
    assert problem.copies(least) == pytest.approx(by_hand, rel=1e-12, abs=1e-9)


def brute_mapping(traffic, bandwidth, objective):
    count = len(bandwidth)
    orders = [np.asarray(order) for order in permutations(range(count))]
    values = []
    for choice in product(orders, repeat=len(traffic) + 1):
        costs = costs_of(np.stack(choice), traffic, bandwidth)
        values.append(costs.sum() if objective == "sum" else costs.max())
    return min(values)


def machine(node_of, inside=9.0, between=2.0):
    nodes = np.asarray(node_of)
    return np.where(nodes[:, np.newaxis] == nodes, inside, between)


@pytest.mark.parametrize("node_of", [[0, 0, 0], [0, 1, 0], [0, 1, 2], [0, 0, 1, 1], None])
@pytest.mark.parametrize("objective", ["sum", "max"])
def test_small_mappings_are_the_best_of_all(node_of, objective):
    rng = np.random.default_rng(4)
    for _ in range(3):
        rates = rng.integers(1, 9, (3, 3)).astype(float) if node_of is None else machine(node_of)
        layers = 2 if len(rates) == 4 else 3
        traffic = rng.integers(0, 30, (layers - 1, len(rates), len(rates))).astype(float)
        found = map_clusters(traffic, rates, objective)
        assert found.optimal
        assert found.objective == pytest.approx(brute_mapping(traffic, rates, objective), rel=1e-12)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), objective=st.sampled_from(["sum", "max"]), nodes=st.integers(1, 5))
def test_both_exact_ways_agree_and_bounds_hold(seed, objective, nodes):
    rng = np.random.default_rng(seed)
    rates = machine(rng.permutation(np.arange(5) * nodes // 5))
    traffic = rng.integers(0, 100, (3, 5, 5)).astype(float)
    found = map_clusters(traffic, rates, objective)
    orders = costs_of(mapping._over_orders(traffic, rates, objective), traffic, rates)
    assert found.objective == pytest.approx(orders.sum() if objective == "sum" else orders.max())
    node_of = levels(rates)
    least = bound_of(traffic, rates, node_of)
    searched, late = search(traffic, rates, node_of, objective)
    costs, plain = (costs_of(one, traffic, rates) for one in (searched, np.tile(np.arange(5), (4, 1))))
    value = np.sum if objective == "sum" else np.max
    assert not late
    assert value(least) <= found.objective + 1e-9 <= value(costs) + 2e-9
    assert value(costs) <= value(plain) + 1e-9
    assert np.sort(searched, axis=1).tolist() == [list(range(5))] * 4


def test_one_node_of_any_size_is_solved():
    rng = np.random.default_rng(1)
    traffic = rng.gamma(2.0, 50.0, (7, 32, 32))
    assert map_clusters(traffic, machine([0] * 32)).optimal


def test_rates_that_are_no_nodes_are_told_apart():
    assert levels(machine([1, 0, 1, 0])).tolist() == [0, 1, 0, 1]
    ring = np.asarray([[9, 9, 2], [9, 9, 9], [2, 9, 9]], dtype=float)
    assert levels(ring) is None


def statistics(layers, experts, exponent=0.3):
    rng = np.random.default_rng(7)
    share = np.arange(1, experts + 1) ** -exponent
    share = share / share.sum()
    return np.stack([rng.multinomial(100_000, rng.permutation(share)) for _ in range(layers)])


def test_a_solver_without_time_gives_the_best_found_and_says_so():
    rng = np.random.default_rng(2)
    loads = rng.integers(900, 1100, (1, 32)) * 1000 + rng.integers(0, 1000, (1, 32))
    policy = create_placement("moetuner", {"time_limit_s": 0.02, "tolerance": 0.0, "solver": "highs"})
    placed = policy.place(loads, make_view(8, 32))
    assert placed.experts_per_device.tolist() == [[4] * 8]
    assert "ended by its limits, best found is used" in placed.notes[0]
    solution = solve(loads, np.zeros((0, 32, 32)), machine([0] * 8), solver="search")
    assert not solution.optimal
    assert 0 < solution.gap <= 1
    assert solution.balanced.bound < solution.balanced.objective


def test_placements_beat_blocks_in_balance_and_transfers():
    loads, view = statistics(6, 16), make_view(4, 16, nodes=2)
    view = create_view_with_past(view, loads)
    found = create_placement("moetuner").place(loads, view)
    blocks = create_placement("contiguous").place(loads, view)
    uneven = [
        np.abs(
            np.take_along_axis(loads[:, np.newaxis], one.slots, axis=2).sum(axis=2) - loads.sum() / 24
        ).sum()
        for one in (found, blocks)
    ]
    assert uneven[0] < uneven[1]
    assert found.notes == ("moetuner: clusters optimal, mapping optimal",)


def create_view_with_past(view, loads):
    return replace(
        view, past=Past.of_counts(loads, 2), top_k=2, inside_bandwidth=9e11, between_bandwidth=1e11
    )


def test_plan_tells_how_good_the_placement_is(tmp_path):
    loads = tmp_path / "loads.json"
    loads.write_text(json.dumps([[5, 9, 1, 3], [2, 2, 8, 4]]))
    words = ["plan", "moetuner", "--loads", str(loads), "--devices", "2"]
    answer = json.loads(CliRunner().invoke(main, [*words, "--json"]).stdout)
    assert answer["notes"] == ["moetuner: clusters optimal, mapping optimal"]
    assert [sorted(row) for row in answer["device_copies"]] == [[8, 10], [6, 10]]
    assert "note: moetuner: clusters optimal" in CliRunner().invoke(main, words).stdout
