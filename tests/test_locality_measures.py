"""Routing consistency, reuse and popularity: golden cases, and counting by hand on small sequences."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.errors import InputError
from moesim.routing import import_trace
from moesim.routing.locality import (
    Accesses,
    Distribution,
    hit_rate_curves,
    popularity,
    reuse,
    routing_consistency,
    segment_scores,
    select_accesses,
    window_histogram,
)

SHARED = next(
    (found for above in Path(__file__).resolve().parents if (found := above / "shared" / "data").is_dir()),
    Path("shared"),
)
GOLDENS = sorted(path for path in SHARED.glob("goldens/lrc_*.json") if "reference" not in path.name)
OWN = Path(__file__).parent / "data" / "locality_srp.json"
TABLES = SHARED / "goldens" / "lrc_reference_esft_tables.json"
ESFT = SHARED / "traces" / "esft_deepseek_v2_lite"
TASKS = ("intent", "summary", "translation")
needs_esft = pytest.mark.skipif(
    not (ESFT.is_dir() and TABLES.is_file()), reason="no recorded ESFT data beside the repository"
)


def accesses_of(case):
    ids = np.array(case["topk_ids"])
    sequences, tokens, k = ids.shape
    return Accesses.of(
        ids.reshape(sequences * tokens, 1, k), [tokens] * sequences, experts=case["num_experts"]
    )


@pytest.mark.parametrize("path", [OWN, *GOLDENS], ids=lambda path: path.name)
def test_consistency_is_that_of_the_published_code(path):
    case = json.loads(path.read_text())
    accesses = accesses_of(case)
    assert case["srp"]
    for window, wanted in case["srp"].items():
        found, group = routing_consistency(accesses, int(window)), wanted["group"]
        for scores in (found.model, found.layers):
            assert float(scores.srp.squeeze()) == pytest.approx(group["SRP"], abs=1e-6)
            assert float(scores.rho_hat.squeeze()) == pytest.approx(group["rho_hat"], abs=1e-6)
            assert float(scores.activation.squeeze()) == pytest.approx(group["activation_rate"], abs=1e-6)
            assert int(scores.threshold.squeeze()) == group["alpha_threshold"]
        np.testing.assert_allclose(found.experts.srp[0], wanted["per_expert_SRP"], rtol=0, atol=1e-6)
        rates = wanted["per_expert_activation_rate"]
        np.testing.assert_allclose(found.experts.activation[0], rates, rtol=0, atol=1e-6)


@st.composite
def routed(draw, longest=9):
    """Return uneven sequences of tokens, as lists and as accesses, and a window that fits one of them."""
    experts = draw(st.integers(1, 6))
    k, layers = draw(st.integers(1, experts)), draw(st.integers(1, 3))
    lengths = draw(st.lists(st.integers(1, longest), min_size=1, max_size=4))
    window = draw(st.integers(1, max(lengths)))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    skew = rng.random(experts) * draw(st.sampled_from([0.0, 1.0, 3.0]))
    ids = (rng.random((sum(lengths), layers, experts)) + skew).argsort(axis=2)[..., :k]
    starts = np.cumsum(lengths) - lengths
    parts = [ids[start : start + length] for start, length in zip(starts, lengths, strict=True)]
    return parts, Accesses.of(ids, lengths, experts=experts), window


def windows_of(parts, window, layer):
    """Return every window of a layer as a list of sets of experts, one per token."""
    tokens = [[set(token[layer].tolist()) for token in part] for part in parts]
    return [part[at : at + window] for part in tokens for at in range(len(part) - window + 1)]


def best_f1(windows, experts, window):
    """Return the best F1 score over thresholds, by comparing (window, token, expert) one by one."""
    scores = []
    for threshold in range(window + 1):
        right = kept = used = 0
        for tokens in windows:
            for expert in experts:
                active = [expert in token for token in tokens]
                keep = sum(active) >= threshold
                right += keep * sum(active)
                kept += keep * len(tokens)
                used += sum(active)
        scores.append(2 * right / (kept + used) if kept + used else 0.0)
    return max(scores)


@given(case=routed())
def test_consistency_is_the_best_agreement_of_a_fixed_set_with_what_is_used(case):
    parts, accesses, window = case
    found = routing_consistency(accesses, window)
    for layer in range(accesses.ids.shape[1]):
        windows = windows_of(parts, window, layer)
        everyone = range(accesses.experts)
        assert found.positions == len(windows)
        assert found.layers.srp[layer] == pytest.approx(best_f1(windows, everyone, window))
        for expert in everyone:
            assert found.experts.srp[layer, expert] == pytest.approx(best_f1(windows, [expert], window))
        distinct = np.mean([len(set().union(*tokens)) for tokens in windows])
        assert found.distinct[layer] == pytest.approx(distinct)


@given(case=routed(longest=20))
def test_consistency_is_at_least_that_of_keeping_everything(case):
    parts, accesses, window = case
    found = routing_consistency(accesses, window)
    layers, experts = accesses.ids.shape[1], accesses.experts
    uses = np.zeros((layers, experts))
    for layer in range(layers):
        for tokens in windows_of(parts, window, layer):
            for expert in itertools.chain(*tokens):
                uses[layer, expert] += 1
    cells = found.positions * window
    for scores, rate in (
        (found.experts, uses / cells),
        (found.layers, uses.mean(axis=1) / cells),
        (found.model, uses.mean() / cells),
    ):
        assert scores.activation == pytest.approx(rate)
        assert (scores.srp >= 2 * rate / (1 + rate) - 1e-12).all()
        assert (scores.srp <= 1 + 1e-12).all()


def test_extremes_of_consistency():
    same = Accesses.of(np.tile([[[0, 1]]], (20, 1, 1)), experts=8)
    found = routing_consistency(same, 5)
    assert float(found.model.srp) == 1
    assert float(found.model.rho_hat) == 1
    assert found.distinct.tolist() == [2]
    assert found.experts.srp[0].tolist() == [1, 1, 0, 0, 0, 0, 0, 0]
    assert np.isnan(found.experts.rho_hat[0, 2:]).all()
    turns = Accesses.of(np.arange(40).reshape(40, 1, 1) % 8, experts=8)  # each expert once in 8 tokens
    assert float(routing_consistency(turns, 8).model.srp) == pytest.approx(2 / (8 + 1))


def test_histograms_of_large_windows_and_many_blocks_agree_with_pooling(monkeypatch):
    ids = np.random.default_rng(2).random((300, 2, 6)).argsort(axis=2)[..., :2]
    accesses = Accesses.of(ids, [200, 100], experts=6)
    whole = window_histogram(accesses, 64)
    assert whole.sum(axis=2).tolist() == [[200 - 63 + 100 - 63] * 6] * 2
    monkeypatch.setattr("moesim.routing.locality.consistency._CELLS", 1)
    assert (window_histogram(accesses, 64) == whole).all()
    pooled = segment_scores(whole.sum(axis=(0, 1)))
    assert float(pooled.srp) == float(routing_consistency(accesses, 64).model.srp)


@pytest.mark.parametrize("window", [0, 3])
def test_windows_that_do_not_fit_are_refused(window):
    with pytest.raises(InputError, match="longest sequence has 2"):
        routing_consistency(Accesses.of([[[0]], [[1]], [[0]]], [2, 1], experts=2), window)


@given(case=routed())
def test_reuse_is_counted_as_by_hand(case):
    parts, accesses, _ = case
    found = reuse(accesses)
    for layer in range(accesses.ids.shape[1]):
        gaps, between, first, shared, later = [], [], 0, 0, 0
        for part in parts:
            order = [(at, expert) for at, token in enumerate(part) for expert in token[layer].tolist()]
            for at, expert in order:
                past = [place for place, (when, other) in enumerate(order) if other == expert and when < at]
                if not past:
                    first += 1
                    continue
                gaps.append(at - order[past[-1]][0])
                between.append(len({other for when, other in order[past[-1] + 1 :] if when < at}))
            for before, after in itertools.pairwise(part):
                shared += len(set(before[layer].tolist()) & set(after[layer].tolist()))
                later += after.shape[1]
        counted = [found.tokens.counts[layer], found.distinct.counts[layer]]
        for counts, wanted in zip(counted, (gaps, between), strict=True):
            assert counts.tolist() == np.bincount(wanted, minlength=len(counts)).tolist()
        assert found.first[layer] == first
        assert found.adjacent[layer] == pytest.approx(shared / later if later else np.nan, nan_ok=True)


def test_adjacent_reuse_of_tokens_that_forget_each_other():
    rng = np.random.default_rng(5)
    even = Accesses.of(rng.random((20_000, 1, 16)).argsort(axis=2)[..., :4], experts=16)
    found = reuse(even)
    assert found.adjacent_random == 0.25
    assert found.adjacent[0] == pytest.approx(0.25, abs=0.005)
    assert found.adjacent_independent[0] == pytest.approx(0.25, abs=0.005)
    skewed = Accesses.of(
        (rng.random((20_000, 1, 16)) + np.arange(16) / 16).argsort(axis=2)[..., :4], experts=16
    )
    found = reuse(skewed)
    assert found.adjacent[0] > 0.4
    assert found.adjacent[0] == pytest.approx(found.adjacent_independent[0], abs=0.01)


def test_distributions():
    found = Distribution(np.array([[0, 3, 1], [0, 0, 1]]))  # 1 1 1 2, 2
    assert found.mean() == pytest.approx(7 / 5)
    assert found.layer_means() == pytest.approx([5 / 4, 2])
    assert [found.quantile(share) for share in (0, 0.5, 0.6, 0.61, 1)] == [1, 1, 1, 2, 2]
    nothing = reuse(Accesses.of([[[0]], [[1]]], [1, 1], experts=2))
    assert np.isnan([nothing.tokens.mean(), nothing.distinct.quantile(0.5), nothing.adjacent[0]]).all()
    assert np.isnan(nothing.tokens.layer_means()).all()


def test_popularity():
    ids = [[[0], [0]], [[0], [1]], [[0], [2]], [[4], [3]]]
    found = popularity(Accesses.of(ids, experts=5))
    assert found.counts.tolist() == [[3, 0, 0, 0, 1], [1, 1, 1, 1, 0]]
    assert found.cv == pytest.approx([np.std([3, 0, 0, 0, 1]) / 0.8, 0.5])
    assert found.top_quarter == pytest.approx([1.0, 0.5])  # two of five experts


@pytest.fixture(scope="module")
def esft(tmp_path_factory):
    """Return the accesses of each task, as the command takes them from an imported trace."""
    folder = tmp_path_factory.mktemp("esft")
    traces = {
        task: import_trace("npz", ESFT / f"{task}.npz", folder / task, experts=64, first_layer=1)
        for task in TASKS
    }
    return {task: select_accesses(trace).accesses for task, trace in traces.items()}


@needs_esft
@pytest.mark.parametrize("task", TASKS)
def test_esft_consistency_and_reuse(esft, task):
    wanted = json.loads(TABLES.read_text())["tasks"][task]
    distinct = {16: (32, 39), 64: (47, 59)}
    for window in (4, 16, 64):
        found, table = routing_consistency(esft[task], window), wanted[f"SRP_m{window}"]
        assert float(found.model.srp) == pytest.approx(table["model"], abs=6e-6)
        assert int(found.model.threshold) == table["alpha"]
        assert float(found.model.rho_hat) == pytest.approx(table["rho_hat"], abs=6e-5)
        np.testing.assert_allclose(found.layers.srp, table["per_layer"], rtol=0, atol=6e-6)
        if window in distinct:
            low, high = distinct[window]
            assert low <= round(float(found.distinct.mean())) <= high
    assert float(routing_consistency(esft[task], 16).model.srp) == pytest.approx(
        {"intent": 0.399, "summary": 0.394, "translation": 0.473}[task], abs=5e-4
    )
    again, used = reuse(esft[task]), popularity(esft[task])
    assert 0.26 <= round(float(again.adjacent.mean()), 2) <= 0.29
    assert again.adjacent_random == pytest.approx(0.094, abs=5e-4)
    assert 0.61 <= used.cv.mean() <= 1.175
    assert 0.45 <= used.top_quarter.mean() <= 0.655


@needs_esft
@pytest.mark.parametrize("task", TASKS)
def test_esft_hit_rates(esft, task):
    wanted = json.loads(TABLES.read_text())["tasks"][task]["hit_rates"]
    length, sequences = {"intent": (64, 16), "summary": (256, 6), "translation": (128, 12)}[task]
    assert f"first {length} tokens of first {sequences} sequences" in wanted["protocol"]
    accesses = esft[task]
    order = np.argsort(accesses.starts)
    starts, sizes = accesses.starts[order], accesses.lengths[order]
    rows = [np.arange(at, at + length) for at in starts[sizes >= length][:sequences]]
    chosen = Accesses.of(accesses.ids[np.concatenate(rows)], [length] * sequences, experts=64)
    few = Accesses.of(accesses.ids[np.concatenate(rows[:4])], [length] * 4, experts=64).together()
    size, total = np.array(wanted["capacity_per_layer"]), wanted["global_cache_first_4_sequences"]
    for name, policy, window in (
        ("LRU", "lru", None),
        ("LFU", "lfu", None),
        ("Belady", "belady", None),
        ("SCH_m16", "sch", 16),
    ):
        found = hit_rate_curves(chosen, policy, window).mean(axis=0)
        means = found.mean(axis=0)[size - 1]
        np.testing.assert_allclose(means, wanted["mean_over_layers"][name], rtol=0, atol=6e-6)
        layers = wanted["per_layer_at_capacity_12"][name]
        np.testing.assert_allclose(found[:, 11], layers, rtol=0, atol=6e-6)
        if task != "intent":  # the shortest; one cache for all layers takes long
            continue
        shared = hit_rate_curves(few, policy, window).mean(axis=(0, 1))
        at = np.array(total["capacity_total"]) - 1
        np.testing.assert_allclose(shared[at], total[name], rtol=0, atol=6e-6)
