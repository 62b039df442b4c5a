"""Replaying a trace: tokens are conserved, steps are pure, the past stays apart from what is simulated."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.errors import InputError
from moesim.routing import CountsWriter, RoutingSource, RoutingTrace, TraceSource, TraceWriter, check_fits
from moesim.routing.counts_replay import largest_remainder

LAYERS, EXPERTS, TOP_K, TOKENS = 3, 10, 2, 100


@pytest.fixture(scope="module")
def trace(tmp_path_factory) -> RoutingTrace:
    rng = np.random.default_rng(5)
    path = tmp_path_factory.mktemp("traces") / "small"
    with TraceWriter(
        path, model="m", experts=EXPERTS, top_k=TOP_K, layers=[1, 2, 5], tasks=["law", "code"]
    ) as writer:
        ids = np.argsort(rng.random((TOKENS, LAYERS, EXPERTS)), axis=2)[:, :, :TOP_K]
        writer.append(ids, task=np.arange(TOKENS) % 2, phase=np.arange(TOKENS) // 50)
    return RoutingTrace.open(path)


@pytest.fixture(scope="module")
def counts_trace(tmp_path_factory) -> RoutingTrace:
    path = tmp_path_factory.mktemp("traces") / "counts"
    with CountsWriter(path, model="m", experts=4, top_k=2, layers=[3, 4]) as writer:
        writer.append(
            [[[9, 1, 0, 0], [1, 1, 1, 1]], [[2, 2, 2, 0], [0, 0, 0, 0]], [[1, 0, 0, 2], [5, 0, 5, 0]]]
        )
    return RoutingTrace.open(path)


def by_hand(trace: RoutingTrace, tokens: list[int]) -> np.ndarray:
    counts = np.zeros((LAYERS, EXPERTS), dtype=np.int64)
    for token in tokens:
        for layer in range(LAYERS):
            for expert in trace.ids[token, layer]:
                counts[layer, expert] += 1
    return counts


shares = st.lists(st.integers(0, 70), min_size=1, max_size=6)


@settings(max_examples=80, deadline=None)
@given(
    share=shares,
    step=st.integers(0, 50),
    assign=st.sampled_from(["contiguous", "interleaved"]),
    profile=st.sampled_from([0, 0.25, 0.99, 1]),
    layers=st.integers(1, 8),
    task=st.sampled_from([None, "law"]),
)
def test_every_layer_gets_top_k_copies_of_every_token_of_every_device(
    trace, share, step, assign, profile, layers, task
):
    source = TraceSource(trace, layers=layers, mode="cycle", profile=profile, assign=assign, task=task)
    load = source.load(step, np.array(share))
    assert load.counts.shape == (layers, len(share), EXPERTS)
    assert (load.counts.sum(axis=2) == np.array(share) * TOP_K).all()
    assert load.counts.dtype == np.int64


@settings(max_examples=40, deadline=None)
@given(share=shares, step=st.integers(0, 9))
def test_both_assignments_take_the_same_tokens(trace, share, step):
    loads = [
        TraceSource(trace, assign=how).load(step, np.array(share)) for how in ("contiguous", "interleaved")
    ]
    assert np.array_equal(loads[0].per_expert, loads[1].per_expert)


def test_contiguous_gives_each_device_its_own_run(trace):
    load = TraceSource(trace, profile=0.25).load(1, np.array([10, 0, 5]))
    assert np.array_equal(load.counts[:, 0], by_hand(trace, list(range(40, 50))))
    assert not load.counts[:, 1].any()
    assert np.array_equal(load.counts[:, 2], by_hand(trace, list(range(50, 55))))


def test_interleaved_deals_tokens_in_turn_and_skips_devices_that_are_full(trace):
    load = TraceSource(trace, profile=0, assign="interleaved").load(0, np.array([3, 1, 2]))
    for device, tokens in enumerate([[0, 3, 5], [1], [2, 4]]):
        assert np.array_equal(load.counts[:, device], by_hand(trace, tokens))


@pytest.mark.parametrize("assign", ["contiguous", "interleaved"])
def test_a_step_longer_than_the_trace_starts_again_at_the_evaluation_part(trace, assign):
    source = TraceSource(trace, profile=0.9, assign=assign)
    assert source.steps_available(4) == 2
    assert np.array_equal(source.load(2, np.array([4])).counts[:, 0], by_hand(trace, [98, 99, 90, 91]))
    expected = by_hand(trace, [*range(90, 100), *range(90, 100), 90, 91, 92])
    assert np.array_equal(source.load(0, np.array([23])).counts[:, 0], expected)


def test_a_step_depends_on_nothing_that_was_asked_before(trace):
    source, fresh = TraceSource(trace), TraceSource(trace)
    for step in (5, 0, 3):
        source.load(step, np.array([7, 7]))
    source.profile()
    assert np.array_equal(source.load(1, np.array([4, 4])).counts, fresh.load(1, np.array([4, 4])).counts)


def test_the_past_is_the_first_part_and_nothing_of_the_rest(trace):
    source = TraceSource(trace, profile=0.25)
    assert np.array_equal(source.profile(), by_hand(trace, list(range(25))))
    whole = source.profile() + source.load(0, np.array([75])).per_expert
    assert np.array_equal(whole, by_hand(trace, list(range(TOKENS))))
    assert not TraceSource(trace, profile=0).profile().any()
    with pytest.raises(ValueError, match="read-only"):
        source.profile()[0, 0] = 1


def test_task_and_phase_choose_tokens(trace):
    source = TraceSource(trace, profile=0, task="code", phase="decode")
    tokens = [token for token in range(50, 100) if token % 2 == 1]
    assert source.steps_available(5) == 5
    assert np.array_equal(source.load(0, np.array([25])).counts[:, 0], by_hand(trace, tokens))


def test_cycling_repeats_or_leaves_out_layers(trace):
    recorded = TraceSource(trace).load(0, np.array([20])).counts
    more = TraceSource(trace, layers=7, mode="cycle").load(0, np.array([20])).counts
    assert np.array_equal(more, recorded[[0, 1, 2, 0, 1, 2, 0]])
    fewer = TraceSource(trace, layers=2, mode="cycle")
    assert np.array_equal(fewer.load(0, np.array([20])).counts, recorded[:2])
    assert fewer.profile().shape == (2, EXPERTS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": 58}, "has 3 MoE layers, the model has 58 .*cycle"),
        ({"layers": 0, "mode": "cycle"}, "at least one"),
        ({"mode": "cicle"}, "did you mean 'cycle'"),
        ({"assign": "random"}, "assignment"),
        ({"profile": 1.5}, "share from 0 to 1"),
        ({"profile": float("nan")}, "share from 0 to 1"),
        ({"task": "low"}, "did you mean 'law'"),
        ({"phase": "decoding"}, "did you mean 'decode'"),
    ],
)
def test_what_does_not_fit_the_trace_is_refused(trace, arguments, message):
    with pytest.raises(InputError, match=message):
        TraceSource(trace, **arguments)


@pytest.mark.parametrize("tokens", [[-1], [0.5], [], [[1]], ["x"]])
def test_tokens_that_are_no_numbers_of_tokens_are_refused(trace, tokens):
    with pytest.raises(InputError, match="whole number"):
        TraceSource(trace).load(0, tokens)


def test_a_source_for_another_model_is_refused(trace):
    source = TraceSource(trace)
    assert isinstance(source, RoutingSource)
    check_fits(source, experts=EXPERTS, top_k=TOP_K, layers=LAYERS)
    for wrong in ({"experts": 64}, {"top_k": 8}, {"layers": 58}):
        with pytest.raises(InputError, match=f"the model has {next(iter(wrong.values()))}"):
            check_fits(source, **({"experts": EXPERTS, "top_k": TOP_K, "layers": LAYERS} | wrong))


def test_physical_ids_become_logical_ones(tmp_path, trace):
    rng = np.random.default_rng(0)
    mapping = np.stack([rng.permutation(np.r_[np.arange(EXPERTS), [0, 3]]) for _ in range(LAYERS)])
    physical = np.empty((TOKENS, LAYERS, TOP_K), dtype=np.int64)
    for place in np.ndindex(physical.shape):
        physical[place] = rng.choice(np.flatnonzero(mapping[place[1]] == trace.ids[place]))
    with TraceWriter(
        tmp_path / "physical",
        model="m",
        experts=EXPERTS,
        top_k=TOP_K,
        layers=[1, 2, 5],
        ids_kind="physical",
        physical_to_logical=mapping,
    ) as writer:
        writer.append(physical)
    recorded = RoutingTrace.open(tmp_path / "physical")
    recorded.verify()
    assert recorded.id_limit == EXPERTS + 2
    blocks = np.concatenate([block.ids for block in recorded.iter_blocks(7)])
    assert np.array_equal(blocks, trace.ids)
    for layers in (LAYERS, 2, 5):
        sources = [TraceSource(one, layers=layers, mode="cycle") for one in (recorded, trace)]
        loads = [source.load(1, np.array([6, 9])).counts for source in sources]
        assert np.array_equal(*loads)
        assert np.array_equal(sources[0].profile(), sources[1].profile())
    assert recorded.info()["per_layer"] == trace.info()["per_layer"]


def test_counts_are_scaled_to_the_step_and_pooled(counts_trace):
    source = TraceSource(counts_trace, profile=0)
    load = source.load(0, np.array([3, 2]))
    assert load.is_pooled
    assert load.counts[:, 0].tolist() == [[9, 1, 0, 0], [3, 3, 2, 2]]
    # A layer that a recorded step leaves out takes the shares of all steps.
    assert source.load(1, np.array([6])).counts[1, 0].tolist() == [5, 1, 5, 1]
    assert np.array_equal(source.load(5, np.array([4])).counts, source.load(2, np.array([4])).counts)
    assert source.steps_available(10_000) == 3


def test_the_past_of_a_counts_trace_is_its_first_steps(counts_trace):
    source = TraceSource(counts_trace, profile=0.4)
    assert source.profile().tolist() == [[9, 1, 0, 0], [1, 1, 1, 1]]
    assert source.steps_available(1) == 2
    with pytest.raises(InputError, match="tasks or phases"):
        TraceSource(counts_trace, phase="decode")


def test_a_single_recorded_step_is_not_silently_both_past_and_future(tmp_path):
    with CountsWriter(tmp_path / "one", model="m", experts=4, top_k=2, layers=[0]) as writer:
        writer.append([[1, 2, 3, 4]])
    trace = RoutingTrace.open(tmp_path / "one")
    with pytest.raises(InputError, match="set profile to 0"):
        TraceSource(trace)
    assert TraceSource(trace, profile=1).profile().tolist() == [[1, 2, 3, 4]]


@settings(max_examples=150, deadline=None)
@given(
    shape=st.lists(st.integers(0, 1 << 50), min_size=1, max_size=12).filter(any),
    total=st.integers(0, 1 << 30),
)
def test_largest_remainder_is_exact_and_within_one_of_the_share(shape, total):
    scaled = largest_remainder(np.array([shape]), total)[0].tolist()
    assert sum(scaled) == total
    for part, copies in zip(shape, scaled, strict=True):
        exact = part * total
        assert exact // sum(shape) <= copies <= -(-exact // sum(shape))
