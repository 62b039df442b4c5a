"""Prefetch policies: the contract over all registered ones, given accuracies, worked examples."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.errors import InputError
from moesim.policies.offload.hybrimoe import ExpertTimes, prefetch_gains, rank_prefetches
from moesim.policies.prefetch.base import Outlook, PrefetchFrame
from moesim.policies.prefetch.common import by_load
from moesim.policies.prefetch.given import NOBODY, spoilt
from moesim.policies.prefetch.history import set_size
from moesim.policies.registry import create_prefetch, policy_types, prefetch_names
from moesim.policies.table import prefetch_table

ESFT = Path(__file__).parents[2] / "shared" / "data" / "traces" / "esft_deepseek_v2_lite"
TIMES = ExpertTimes(cpu_per_token=1.0, cpu_first=0.5, gpu=0.3, gpu_first=0.1, transfer=2.0)
GIVEN = [name for name, kind in policy_types("prefetch").items() if kind.given]

# Layers that are predicted after a router's answer, of a model of so many.
TARGETS = {
    "gate": lambda layer, layers: range(layer + 1, min(layer + 4, layers)) if layer >= 0 else [],
    "impact": lambda layer, layers: range(layer + 1, min(layer + 4, layers)) if layer >= 0 else [],
    "learned": lambda layer, layers: range(max(layer + 1, 2), min(layer + 3, layers)),
    "oneshot": lambda layer, layers: range(layer + 1, layers),
    "pregated": lambda layer, layers: range(layer + 1, min(layer + 2, layers)) if layer >= 0 else [],
}
EXACT = {
    "gate": {"accuracy": 1, "accuracy_far": 1, "lookahead": 3, "stop_at_first": False},
    "impact": {"accuracy": 1, "accuracy_far": 1},
    "learned": {"accuracy": 1},
    "oneshot": {"accuracy": 1},
    "pregated": {},
}


class Run:
    """Iterations through a model, with residents that change at random."""

    def __init__(self, seed, layers, experts, k, sizes, slots=None):
        random = np.random.default_rng(seed)
        self.seed = seed

        def routes(tokens):
            return random.random((tokens, layers, experts)).argsort(axis=2)[..., :k]

        sequence = np.sort(random.integers(0, 3, 12))
        self.frame = PrefetchFrame(layers, experts, k, routes(12), sequence, seed=seed)
        self.iterations = [routes(tokens) for tokens in sizes]
        self.slots = [experts if slots is None else slots] * layers

    def outlooks(self, may_know=True, times=TIMES):
        """Yield each outlook, after what the router before it has answered, as (layer, ids or None)."""
        random = np.random.default_rng(self.seed + 1)
        layers, experts = self.frame.layers, self.frame.experts
        for iteration, ids in enumerate(self.iterations):
            for layer in range(-1, layers):

                def truth(target, ids=ids, layer=layer):
                    assert may_know, "asked for the truth that it may not know"
                    assert layer < target < layers, "asked for a layer that is past or of the next iteration"
                    return ids[:, target]

                resident = [
                    set(random.permutation(experts)[: random.integers(0, self.slots[0] + 1)].tolist())
                    for _ in range(layers)
                ]
                answer = (layer, ids[:, layer]) if layer >= 0 else None
                tokens = len(ids)
                yield (
                    answer,
                    Outlook(
                        iteration, layer, tokens, tokens > 1, resident, self.slots, truth=truth, times=times
                    ),
                )

    def ask(self, state, **how):
        """Run a state through and return what it wants at each outlook."""
        found = []
        for answer, outlook in self.outlooks(**how):
            if answer:
                state.see(*answer)
            found.append((outlook, state.wanted(outlook)))
        return found


def absent(outlook, wanted):
    """Return what is to be loaded: the rest is there and is to stay."""
    return [one for one in wanted if one[1] not in outlook.resident[one[0] % len(outlook.resident)]]


@st.composite
def runs(draw, roomy=False):
    experts = draw(st.integers(2, 9))
    return Run(
        draw(st.integers(0, 10**6)),
        draw(st.integers(1, 5)),
        experts,
        draw(st.integers(1, min(3, experts))),
        draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)),
        None if roomy else draw(st.integers(0, experts)),
    )


def state_of(name, run, **parameters):
    return create_prefetch(name, parameters).start(run.frame)


@pytest.mark.parametrize("name", prefetch_names())
@settings(max_examples=40)
@given(run=runs(), timed=st.booleans())
def test_contract(name, run, timed):
    policy = create_prefetch(name)
    how = {"may_know": policy.given, "times": TIMES if timed else None}
    found = run.ask(policy.start(run.frame), **how)
    layers = run.frame.layers
    for outlook, wanted in found:
        assert len(set(wanted)) == len(wanted)
        for layer, expert in wanted:
            assert outlook.layer < layer <= outlook.layer + layers
            assert 0 <= expert < run.frame.experts
        for layer in {layer for layer, _ in wanted}:
            chosen = {expert for one, expert in wanted if one == layer}
            resident = outlook.resident[layer % layers]
            # What is to be loaded fits beside what is to stay.
            assert len(chosen) <= max(run.slots[layer % layers], len(resident & chosen))
    again = run.ask(policy.start(run.frame), **how)
    assert [wanted for _, wanted in again] == [wanted for _, wanted in found]
    assert policy.seconds(layers) >= 0


def forgets(name):
    """Return parameters with which nothing of a request outlives it."""
    return {"online": False} if "online" in create_prefetch(name).parameters_type.model_fields else {}


@pytest.mark.parametrize("name", prefetch_names())
@settings(max_examples=20)
@given(run=runs())
def test_a_new_request_starts_afresh(name, run):
    fresh = run.ask(state_of(name, run, **forgets(name)))
    used = state_of(name, run, **forgets(name))
    other = Run(run.seed + 7, run.frame.layers, run.frame.experts, run.frame.top_k, [2, 1])
    other.ask(used)
    used.reset()
    assert [wanted for _, wanted in run.ask(used)] == [wanted for _, wanted in fresh]


@pytest.mark.parametrize("name", GIVEN)
@settings(max_examples=40)
@given(run=runs(roomy=True))
def test_full_accuracy_wants_exactly_the_true_absent_experts(name, run):
    for outlook, wanted in run.ask(state_of(name, run, **EXACT[name]), times=None):
        expected = {
            (target, int(expert))
            for target in TARGETS[name](outlook.layer, run.frame.layers)
            for expert in np.unique(outlook.truth(target))
            if expert not in outlook.resident[target]
        }
        assert set(absent(outlook, wanted)) == expected


@pytest.mark.parametrize("name", GIVEN)
def test_every_policy_of_given_accuracy_is_checked(name):
    assert name in TARGETS
    assert name in EXACT


@pytest.mark.parametrize(
    ("name", "parameters", "accuracy", "distance"),
    [
        ("gate", {}, 0.96, 1),
        ("gate", {"lookahead": 2, "stop_at_first": False}, 0.9, 2),
        ("impact", {}, 0.96, 1),
        ("impact", {}, 0.9, 3),
        ("learned", {}, 0.847, 2),
        ("learned", {"accuracy": 0.3}, 0.3, 2),
        ("oneshot", {}, 0.9, 2),
        ("oneshot", {"by_layer": (1.0, 1.0, 0.25, 1.0)}, 0.25, 2),
        ("pregated", {}, 1.0, 1),
    ],
)
def test_accuracy_is_the_share_of_true_experts_named(name, parameters, accuracy, distance):
    run = Run(3, 4, 16, 2, [1] * 3000)
    state = state_of(name, run, **parameters)
    layer = {"oneshot": -1}.get(name, 0)
    target = 2 if name == "oneshot" else layer + distance
    right = total = named = 0
    for iteration, ids in enumerate(run.iterations):
        outlook = Outlook(iteration, layer, 1, False, [set()] * 4, run.slots, lambda t, ids=ids: ids[:, t])
        experts = {expert for one, expert in state.wanted(outlook) if one == target}
        right += len(experts & set(ids[0, target].tolist()))
        named += len(experts)
        total += 2
    assert abs(right - accuracy * total) <= 5 * np.sqrt(total * accuracy * (1 - accuracy))
    assert named == total


@settings(max_examples=60)
@given(
    seed=st.integers(0, 1 << 40),
    experts=st.integers(1, 12),
    accuracy=st.sampled_from([0.0, 0.3, 0.9, 1.0]),
    data=st.data(),
)
def test_a_spoilt_prediction_names_experts_once_and_keeps_ranks(seed, experts, accuracy, data):
    k = data.draw(st.integers(1, experts))
    random = np.random.default_rng(seed)
    truth = random.random((20, experts)).argsort(axis=1)[:, :k]
    found = spoilt(truth, experts, accuracy, (seed, 3, -1, 2))
    for token, true in zip(found, truth, strict=True):
        named = [expert for expert in token.tolist() if expert != NOBODY]
        assert len(set(named)) == len(named)
        wrong = token != true
        assert not set(token[wrong].tolist()) & set(true.tolist())
        assert len(named) == k - max(int(wrong.sum()) - (experts - k), 0)
    if accuracy == 0:
        assert (found != truth).all()


def test_wrong_experts_are_all_alike():
    truth = np.tile(np.asarray([[2, 5]]), (20000, 1))
    found = spoilt(truth, 8, 0.5, (1, 2, 3, 4))
    counts = np.bincount(found.ravel(), minlength=8)
    wrong = counts[[0, 1, 3, 4, 6, 7]]
    assert abs(counts[[2, 5]] - 10000).max() < 400
    assert abs(wrong - 20000 / 6).max() < 5 * np.sqrt(20000 / 6)


def test_predictions_do_not_depend_on_what_was_asked_before():
    run = Run(5, 5, 12, 3, [1, 3, 1])
    for name in GIVEN:
        outlooks = [outlook for _, outlook in run.outlooks()]
        forward, backward = state_of(name, run), state_of(name, run)
        first = [forward.wanted(outlook) for outlook in outlooks]
        second = [backward.wanted(outlook) for outlook in reversed(outlooks)]
        assert first == second[::-1]


def test_other_seeds_iterations_and_layers_err_elsewhere():
    truth = np.tile(np.arange(4), (50, 1))
    keys = [(0, 0, 0, 1), (1, 0, 0, 1), (0, 1, 0, 1), (0, 0, 1, 1), (0, 0, 0, 2)]
    found = [spoilt(truth, 32, 0.5, key).tolist() for key in keys]
    assert all(found[i] != found[j] for i in range(5) for j in range(i))


def test_the_union_over_a_prompt_is_nearly_exact():
    run = Run(2, 2, 8, 2, [64])
    ids = run.iterations[0]
    outlook = Outlook(0, 0, 64, True, [set(), set()], run.slots, lambda t: ids[:, t])
    wanted = {expert for _, expert in state_of("gate", run, accuracy=0.9).wanted(outlook)}
    assert wanted == set(np.unique(ids[:, 1]).tolist())


def test_no_more_is_wanted_than_comes_in_without_a_needed_expert_going():
    run = Run(1, 2, 8, 3, [1], slots=4)
    truth = np.asarray([[7, 1, 2], [7, 3, 2]])
    outlook = Outlook(0, 0, 2, True, [set(), {1, 5, 6}], [4, 4], lambda t: truth)
    wanted = state_of("gate", run, accuracy=1).wanted(outlook)
    assert wanted == [(1, 1), (1, 7), (1, 2), (1, 3)]
    outlook = Outlook(0, 0, 2, True, [set(), {1, 3}], [4, 3], lambda t: truth)
    assert absent(outlook, state_of("gate", run, accuracy=1).wanted(outlook)) == [(1, 7)]


def test_most_tokens_first_then_rank_then_number():
    assert by_load(np.asarray([[4, 0, NOBODY], [5, 0, 2]])) == {0: 2, 4: 1, 5: 1, 2: 1}
    assert list(by_load(np.asarray([[4, 0, 1], [5, 0, 2]]))) == [0, 4, 5, 1, 2]


def test_gate_looks_farther_only_while_nothing_is_missing():
    run = Run(1, 4, 8, 2, [1])
    truth = {1: [[0, 1]], 2: [[2, 3]], 3: [[4, 5]]}

    def wanted(resident, **parameters):
        outlook = Outlook(0, 0, 1, False, resident, [8] * 4, lambda t: np.asarray(truth[t]))
        parameters = {"accuracy": 1, "accuracy_far": 1, "lookahead": 3, **parameters}
        return absent(outlook, state_of("gate", run, **parameters).wanted(outlook))

    assert wanted([set(), {0, 1}, {2}, set()]) == [(2, 3)]
    assert wanted([set(), {0}, set(), set()]) == [(1, 1)]
    assert wanted([set(), {0, 1}, {2, 3}, set()]) == [(3, 4), (3, 5)]
    assert wanted([set(), {0, 1}, {2, 3}, set()], lookahead=2) == []
    assert wanted([set()] * 4, stop_at_first=False, top=1) == [(1, 0), (2, 2), (3, 4)]


@settings(max_examples=60)
@given(run=runs(roomy=True))
def test_impact_is_the_ranking_of_the_paper(run):
    state = state_of("impact", run, accuracy=1, lookahead=1)
    for outlook, wanted in run.ask(state):
        target = outlook.layer + 1
        if outlook.layer < 0 or target >= run.frame.layers:
            assert wanted == []
            continue
        wanted = absent(outlook, wanted)
        load = by_load(outlook.truth(target))
        there = [e for e in load if e in outlook.resident[target]]
        missing = [e for e in load if e not in outlook.resident[target]]
        assert wanted == [(target, e) for e in rank_prefetches(there, missing, load, TIMES)]


def test_impact_takes_the_largest_gain_of_several_layers():
    run = Run(1, 3, 8, 2, [1])
    answers = {1: np.asarray([[0, 1]]), 2: np.asarray([[2, 3]] * 6 + [[2, 4]] * 3)}
    outlook = Outlook(0, 0, 9, True, [set()] * 3, [8] * 3, lambda t: answers[t], TIMES)
    # Layer 1: an expert of one token on the CPU until 1.5, the other there at 2 and done at 2.4; with one
    # resident 1.5. Layer 2: the expert of 3 tokens until 3.5, the others there at 2 and 4, done at 4.3;
    # with one resident 3.5.
    assert prefetch_gains([], [0, 1], {0: 1, 1: 1}, TIMES) == pytest.approx({0: 0.9, 1: 0.9})
    assert prefetch_gains([], [2, 3, 4], {2: 9, 3: 6, 4: 3}, TIMES)[2] == pytest.approx(0.8)
    wanted = state_of("impact", run, accuracy=1, accuracy_far=1).wanted(outlook)
    assert wanted == [(1, 0), (1, 1), (2, 2), (2, 3)]
    few = state_of("impact", run, accuracy=1, accuracy_far=1, candidates=1).wanted(outlook)
    assert few == [(1, 0), (2, 2)]
    untimed = Outlook(0, 0, 9, True, [set()] * 3, [8] * 3, lambda t: answers[t])
    assert state_of("impact", run, accuracy=1, accuracy_far=1).wanted(untimed) == [
        (2, 2), (2, 3), (2, 4), (1, 0), (1, 1)
    ]  # fmt: skip


def profiled(routes, sequence=None, experts=4):
    profile = np.asarray(routes)
    tokens, layers, k = profile.shape
    where = np.zeros(tokens, dtype=np.int64) if sequence is None else np.asarray(sequence)
    return PrefetchFrame(layers, experts, k, profile, where)


def plain(layer, layers=3, tokens=1, slots=4):
    return Outlook(0, layer, tokens, False, [set()] * layers, [slots] * layers)


def test_path_gives_conditional_frequencies():
    routes = [[0, 1, 2], [0, 1, 2], [0, 1, 3], [1, 1, 0], [2, 3, 1]]
    frame = profiled(np.asarray(routes)[:, :, np.newaxis])
    state = create_prefetch("path").start(frame)

    def after(*experts, tokens=1):
        for layer, expert in enumerate(experts):
            state.see(layer, np.full((tokens, 1), expert))
        return state.expected(len(experts), tokens)

    assert after(0, 1) == pytest.approx([0, 0, 2 / 3, 1 / 3])
    assert state.wanted(plain(1)) == [(2, 2), (2, 3)]
    assert after(1, 1) == pytest.approx([1, 0, 0, 0])
    assert after(3, 1) == pytest.approx([1 / 4, 0, 1 / 2, 1 / 4]), "one layer, as 3 then 1 is new"
    assert after(0, 2) == pytest.approx([1 / 5, 1 / 5, 2 / 5, 1 / 5]), "popularity, as 2 is new"
    assert after(0) == pytest.approx([0, 1, 0, 0])
    assert after(3, tokens=2) == pytest.approx([0, 2 * 4 / 5, 0, 2 * 1 / 5])
    assert state.wanted(plain(-1)) == [(0, 0), (0, 1), (0, 2)]


def test_path_averages_over_the_paths_of_a_token():
    frame = profiled([[[0, 1], [2, 3]], [[0, 2], [0, 3]]])
    state = create_prefetch("path").start(frame)
    state.see(0, np.asarray([[0, 1]]))
    # After 0: 2, 3, 0, 3 in two cases; after 1: 2, 3 in one.
    assert state.expected(1, 1) == pytest.approx([0.25, 0, 0.75, 1.0])
    state.see(0, np.asarray([[1, 3]]))
    # After 1: 2, 3; 3 is new: popularity.
    assert state.expected(1, 1) == pytest.approx([0.25, 0, 0.75, 1.0])


def test_path_goes_on_counting_if_told():
    empty = PrefetchFrame(2, 4, 1, np.zeros((0, 2, 1), dtype=np.int64), np.zeros(0, dtype=np.int64))
    for online, expected in ((False, []), (True, [(1, 3), (1, 2)])):
        state = create_prefetch("path", {"online": online}).start(empty)
        for follower in (3, 2, 3):
            state.see(0, np.asarray([[1]]))
            state.see(1, np.asarray([[follower]]))
        state.see(0, np.asarray([[1]]))
        assert state.wanted(plain(0, layers=2)) == expected


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), k=st.integers(1, 3))
def test_path_tables_are_those_counted_one_by_one(seed, k):
    run = Run(seed, 3, 5, k, [])
    state = state_of("path", run)
    token = run.frame.profile[0]
    state.see(0, token[np.newaxis, 0])
    state.see(1, token[np.newaxis, 1])
    expected = np.zeros(5)
    for a in token[0]:
        for b in token[1]:
            met = [t for t in run.frame.profile if a in t[0] and b in t[1]]
            for other in met:
                expected[other[2]] += 1 / len(met) / k**2
    assert state.expected(2, 1) == pytest.approx(expected)


def test_matrices_by_hand():
    """Two past requests, the first like this one in layer 0."""
    routes = [[[0], [1], [2]], [[0], [1], [3]], [[3], [2], [0]], [[0], [3], [3]]]
    frame = profiled(routes, sequence=[0, 0, 1, 1])
    state = create_prefetch("matrices", {"matched": 1}).start(frame)
    state.see(0, np.asarray([[0]]))
    # Cosines in layer 0: 1 and 1 / sqrt 2. Rows of the first: layer 1 [0, 2, 0, 0], layer 2 [0, 0, 1, 1].
    assert state.worth(0) == pytest.approx(
        np.asarray([[0] * 4, [0, 2 / 3, 0, 0], [0, 0, 1 / 2 / 3, 1 / 2 / 3]])
    )
    assert state.wanted(plain(0)) == [(1, 1), (2, 2), (2, 3)]
    state.see(1, np.asarray([[3]]))
    # Mean cosines: (1 + 0) / 2 and (1 / sqrt 2 + 1 / sqrt 2) / 2.
    assert state.wanted(plain(1)) == [(2, 0), (2, 3)]
    both = create_prefetch("matrices", {"matched": 2}).start(frame)
    both.see(0, np.asarray([[0]]))
    assert both.worth(0) == pytest.approx(
        np.asarray(
            [[0] * 4, [0, 2 / 4 * 2 / 3, 1 / 4 * 2 / 3, 1 / 4 * 2 / 3], [1 / 4 / 3, 0, 1 / 4 / 3, 2 / 4 / 3]]
        )
    )
    assert both.wanted(plain(-1, slots=1)) == [(0, 0), (1, 1)], "nothing is worth the last layer yet"


def test_matrices_learn_from_requests_that_ended():
    empty = PrefetchFrame(2, 4, 1, np.zeros((0, 2, 1), dtype=np.int64), np.zeros(0, dtype=np.int64))
    for online, expected in ((False, []), (True, [(1, 3)])):
        state = create_prefetch("matrices", {"online": online, "collection": 1}).start(empty)
        for follower in (2, 3):
            state.see(0, np.asarray([[follower - 1]]))
            state.see(1, np.asarray([[follower]]))
            state.reset()
        state.see(0, np.asarray([[1]]))
        assert state.wanted(plain(0, layers=2)) == expected
        # Only the newest is in the collection; before the first layer all of it counts.
        assert state.wanted(plain(-1, layers=2)) == ([(0, 2)] if online else [])


def test_history_follows_the_nearest_past_iteration():
    routes = [[[0, 1], [2, 3], [0, 2]], [[0, 2], [0, 1], [1, 3]], [[3, 2], [3, 2], [0, 3]]]
    frame = profiled(routes)
    state = create_prefetch("history", {"distance": 2}).start(frame)
    state.see(0, np.asarray([[2, 0]]))
    assert state.wanted(plain(0)) == [(1, 0), (1, 1), (2, 1), (2, 3)]
    state.see(1, np.asarray([[2, 3]]))
    # Cosines: (1/2 + 1), (1 + 0), (1/2 + 1): of the first and the last, the first.
    assert state.wanted(plain(1)) == [(2, 0), (2, 2)]


def test_history_wants_more_where_it_is_less_alike():
    """The past iteration was of four tokens, so that its map has unlike rows."""
    empty = PrefetchFrame(3, 4, 1, np.zeros((0, 3, 1), dtype=np.int64), np.zeros(0, dtype=np.int64))

    def wanted(first, second):
        state = create_prefetch("history", {"distance": 1}).start(empty)
        for layer, ids in enumerate(([0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 1, 2])):
            state.see(layer, np.asarray(ids)[:, np.newaxis])
        state.see(0, np.asarray([[first]]))
        state.see(1, np.asarray([[second]]))
        return [expert for _, expert in state.wanted(plain(1))]

    # Cosines 1 / sqrt 2 or 0 per layer: likeness 0.71, 0.35 or 0, and the worthiest experts hold 1/2, 3/4, 1.
    assert wanted(0, 1) == [0]
    assert wanted(0, 3) == [0, 1]
    assert wanted(3, 2) == [0, 1, 2]


def test_history_keeps_iterations_of_the_run():
    empty = PrefetchFrame(2, 4, 1, np.zeros((0, 2, 1), dtype=np.int64), np.zeros(0, dtype=np.int64))
    for online, expected in ((False, []), (True, [(1, 2)])):
        state = create_prefetch("history", {"online": online, "distance": 1}).start(empty)
        state.see(0, np.asarray([[1]]))
        state.see(1, np.asarray([[2]]))
        state.see(0, np.asarray([[1]]))
        assert state.wanted(plain(0, layers=2)) == expected


def test_history_takes_more_of_what_is_less_alike():
    worth = np.asarray([5.0, 0, 3, 2])
    assert [set_size(worth, share, 1) for share in (0.0, 0.5, 0.51, 0.8, 0.9, 1.0)] == [1, 1, 2, 2, 3, 3]
    assert set_size(worth, 0.0, 2) == 2


def test_popular_orders_by_the_profile():
    frame = profiled([[[3], [1]], [[3], [2]], [[0], [2]]])
    state = create_prefetch("popular").start(frame)
    assert state.wanted(plain(-1, layers=2)) == [(0, 3), (0, 0)]
    assert state.wanted(plain(0, layers=2, slots=1)) == [(1, 2)]
    assert state.wanted(plain(1, layers=2)) == [(2, 3), (2, 0)], "the first layer of the next iteration"
    assert create_prefetch("popular", {"top": 1}).start(frame).wanted(plain(0, layers=2)) == [(1, 2)]


def test_layers_stream_on_into_the_next_iteration():
    run = Run(1, 3, 3, 1, [])
    state = state_of("layers", run, ahead=2)
    outlook = Outlook(0, 1, 1, False, [{1}, set(), {0, 1, 2}], [3] * 3)
    assert absent(outlook, state.wanted(outlook)) == [(3, 0), (3, 2)]
    outlook = Outlook(0, -1, 1, False, [{1}, set(), {0, 1, 2}], [3] * 3)
    assert absent(outlook, state.wanted(outlook)) == [(0, 0), (0, 2), (1, 0), (1, 1), (1, 2)]
    with pytest.raises(InputError, match="ahead is 4, but the model has 3"):
        state_of("layers", run, ahead=4)


def test_learned_predictions_of_nearer_layers_go_first():
    run = Run(1, 5, 8, 1, [1])
    ids = run.iterations[0]
    outlook = Outlook(0, 1, 1, False, [set()] * 5, [8] * 5, lambda t: ids[:, t])
    wanted = state_of("learned", run, accuracy=1).wanted(outlook)
    assert wanted == [(2, int(ids[0, 2, 0])), (3, int(ids[0, 3, 0]))]


@pytest.mark.parametrize(("name", "made_at"), [("learned", 0), ("oneshot", -1)])
def test_a_prediction_stays_until_its_layer(name, made_at):
    run = Run(4, 3, 32, 4, [1] * 50)
    state = state_of(name, run, accuracy=0.5)
    for iteration, ids in enumerate(run.iterations):
        first, later = (
            [
                one
                for one in state.wanted(
                    Outlook(iteration, layer, 1, False, [set()] * 3, run.slots, lambda t, ids=ids: ids[:, t])
                )
                if one[0] == 2
            ]
            for layer in (made_at, 1)
        )
        assert first == later
        assert len(first) == 4


def test_one_shot_needs_one_accuracy_per_layer():
    run = Run(1, 3, 8, 1, [1])
    with pytest.raises(InputError, match="has 2 accuracies, expected 3"):
        state_of("oneshot", run, by_layer=(0.5, 0.5))
    with pytest.raises(InputError, match="each from 0 to 1"):
        state_of("oneshot", run, by_layer=(0.5, 0.5, 1.5))


def test_seconds_are_counted_unless_hidden():
    assert create_prefetch("learned").seconds(10) == 0
    assert create_prefetch("learned", {"hidden": False}).seconds(10) == pytest.approx(10 * 200e-6)
    assert create_prefetch("learned", {"hidden": False, "predict_s": "1 ms"}).seconds(10) == pytest.approx(1e-2)
    assert create_prefetch("oneshot", {"predict_s": 0.002}).seconds(10) == 0.002
    assert create_prefetch("gate").seconds(10) == 0


def recall(name, frame, ids):
    """Return the share of needed experts among the top_k that are wanted first for the next layer."""
    state = create_prefetch(name).start(frame)
    layers, right, total = frame.layers, 0, 0
    for iteration, token in enumerate(ids):
        for layer, following in pairwise(range(layers)):
            state.see(layer, token[np.newaxis, layer])
            outlook = Outlook(iteration, layer, 1, False, [set()] * layers, [frame.experts] * layers)
            wanted = [e for one, e in state.wanted(outlook) if one == following][: frame.top_k]
            right += len(set(wanted) & set(token[following].tolist()))
            total += frame.top_k
        state.see(layers - 1, token[np.newaxis, layers - 1])
    return right / total


@pytest.mark.slow
def test_learning_from_the_profile_beats_guessing_on_esft():
    if not ESFT.is_dir():
        pytest.skip(f"no {ESFT.name} beside the repository")
    part = np.load(ESFT / "translation.npz")
    ids, lengths = part["ids"].astype(np.int64), part["seq_len"]
    sequence = np.repeat(np.arange(len(lengths)), lengths)
    cut = int(lengths[: len(lengths) * 3 // 4].sum())
    frame = PrefetchFrame(ids.shape[1], 64, ids.shape[2], ids[:cut], sequence[:cut])
    known = {token.tobytes() for token in ids[:cut]}
    new = np.stack([token for token in ids[cut:] if token.tobytes() not in known][:300])
    found = {name: recall(name, frame, new) for name in ("random", "popular", "matrices", "history", "path")}
    assert found["random"] == pytest.approx(6 / 64, abs=0.01)
    assert found["popular"] > 2 * found["random"], found
    assert found["matrices"] > found["popular"], found
    assert min(found["path"], found["history"]) > found["popular"] + 0.2, found


def test_the_page_has_the_table_of_the_registry():
    page = (Path(__file__).parents[1] / "docs" / "prefetching.md").read_text()
    assert prefetch_table() in page, "write it again, see the page"
