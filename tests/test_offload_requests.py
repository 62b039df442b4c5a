"""Requests token by token: the generator of local requests, and recorded sequences through the engine."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from offload_runs import described, prepared, ran

from moesim.cli import main
from moesim.engine.offload.demand import Demands, iterations
from moesim.policies.cache.base import Precisions
from moesim.policies.offload.precision import precision_of
from moesim.routing import CountsWriter, RoutingTrace, TraceSource, TraceWriter
from moesim.routing.generators.base import Shape
from moesim.routing.generators.local import LocalGenerator, LocalParameters
from moesim.routing.requests import gate_weights
from moesim.workload.steps import Requests, Workload

Mapping = dict[str, Any]


def local(seed: int = 0, layers: int = 4, experts: int = 16, k: int = 3, **parameters: Any) -> LocalGenerator:
    shape = Shape(layers=layers, experts=experts, top_k=k, seed=seed)
    return LocalGenerator(shape, LocalParameters(**parameters))


def reuse(ids: Any) -> float:
    """Return the share of a token's experts that the token before had too."""
    return float(np.mean((ids[1:, :, :, np.newaxis] == ids[:-1, :, np.newaxis]).any(axis=3)))


@settings(max_examples=60)
@given(
    seed=st.integers(0, 99),
    layers=st.integers(1, 5),
    experts=st.integers(1, 12),
    number=st.integers(0, 9),
    tokens=st.integers(1, 40),
    data=st.data(),
)
def test_tokens_have_distinct_experts_and_falling_weights(
    seed: int, layers: int, experts: int, number: int, tokens: int, data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, experts))
    chances = {key: data.draw(st.sampled_from([0.0, 0.3, 1.0])) for key in ("stay", "onward")}
    source = local(seed, layers, experts, k, **chances, topic=data.draw(st.sampled_from([0.0, 5.0])))
    found = source.request(number, tokens)
    assert found.ids.shape == (tokens, layers, k)
    assert found.ids.min() >= 0
    assert found.ids.max() < experts
    assert (np.diff(np.sort(found.ids, axis=2), axis=2) > 0).all()
    assert found.weights is not None
    assert found.weights.sum(axis=2) == pytest.approx(1.0)
    assert (np.diff(found.weights, axis=2) <= 0).all()
    # The same again, whatever was asked before, and from another object.
    source.request(number + 1, 3)
    for other in (source, local(seed, layers, experts, k, **chances, topic=source._given.topic)):
        again = other.request(number, tokens)
        assert (again.ids == found.ids).all()
        assert again.weights is not None
        assert (again.weights == found.weights).all()


def test_requests_and_seeds_differ_and_the_past_is_none_of_them() -> None:
    source = local()
    ids = [source.request(number, 20).ids for number in range(3)]
    ids += [tokens.ids[:20] for tokens in source.past(1024)]
    ids.append(local(seed=1).request(0, 20).ids)
    assert all((one != other).any() for at, one in enumerate(ids) for other in ids[:at])


@pytest.mark.parametrize(
    ("key", "low", "high"), [("stay", 0.0, 0.5), ("onward", 0.0, 0.9), ("topic", 0.0, 2.0)]
)
def test_locality_raises_reuse(key: str, low: float, high: float) -> None:
    plain = {"stay": 0.0, "onward": 0.0, "topic": 0.0, "exponent": 0.0}

    def measured(value: float) -> float:
        source = local(layers=6, experts=32, k=2, **{**plain, key: value})
        ids = np.concatenate([source.request(number, 200).ids for number in range(6)])
        if key == "onward":
            # Experts that follow each other: how far the pair in neighbouring layers is from chance.
            pairs = np.zeros((32, 32))
            np.add.at(pairs, (ids[:, 2, 0], ids[:, 3, 0]), 1)
            return float((pairs.max(axis=1) / pairs.sum(axis=1)).mean())
        return reuse(ids)

    assert measured(high) > 1.5 * measured(low)


def test_reuse_is_that_of_the_chance_to_stay() -> None:
    source = local(layers=1, experts=256, k=1, stay=0.4, onward=0.0, topic=0.0, exponent=0.0)
    ids = source.request(0, 20_000).ids
    assert reuse(ids) == pytest.approx(0.4 + 0.6 / 256, abs=0.015)


def test_hobbits_thresholds_split_as_published_on_mixtrals_shape() -> None:
    weights = gate_weights(np.random.default_rng(0), (100_000, 2), 8)
    kinds = np.bincount(precision_of(weights, 0.6, 0.9).ravel(), minlength=3) / 200_000
    # The paper has 67, 30 and 3 % with Mixtral's own gates.
    assert kinds == pytest.approx([0.69, 0.29, 0.02], abs=0.015)


LENGTHS = (5, 12, 3, 9)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write a trace of four sequences, and the same without gate weights, and one of counts."""
    rng = np.random.default_rng(0)
    total = sum(LENGTHS)
    ids = np.argsort(rng.random((total, 4, 8)), axis=2)[:, :, :2]
    sequence = np.repeat(np.arange(len(LENGTHS)), LENGTHS)
    weights = rng.random((total, 4, 2)).astype(np.float32)
    for name, weighted in (("weighted", True), ("bare", False)):
        kept: Mapping = {"weights": weighted}
        with TraceWriter(tmp_path / name, model="m", experts=8, top_k=2, layers=range(4), **kept) as writer:
            writer.append(ids, sequence=sequence, **({"weights": weights} if weighted else {}))
    with CountsWriter(tmp_path / "counts", model="m", experts=8, top_k=2, layers=range(4)) as writer:
        writer.append(np.full((3, 4, 8), 2))
    return tmp_path


def recorded(folder: Path, name: str = "weighted", offload: Any = None, **workload: Any) -> Mapping:
    made = described(offload or {"slots": 3})
    made["routing"] = {"trace": str(folder / name), "profile": 0}
    made["workload"] = {"tokens_per_device": 1, "context": 16, **workload}
    return made


def test_requests_are_the_sequences_that_are_long_enough(folder: Path) -> None:
    source = TraceSource(RoutingTrace.open(folder / "weighted"), profile=0)
    starts = np.cumsum((0, *LENGTHS))
    ids = np.asarray(source.trace.ids)
    for tokens, able in ((4, (0, 1, 3)), (9, (1, 3)), (10, (1,))):
        for number in range(5):
            first = starts[able[number % len(able)]]
            assert (source.request(number, tokens).ids == ids[first : first + tokens]).all()
    # None is long enough: runs of the trace, one behind the other.
    assert (source.request(0, 13).ids == ids[:13]).all()
    assert (source.request(1, 13).ids == ids[13:26]).all()
    assert (source.request(2, 13).ids == ids[:13]).all()


def test_the_engine_follows_the_recorded_tokens(folder: Path) -> None:
    run = ran(recorded(folder, requests={"count": 2, "prompt": 4, "output": 3}))
    ids = np.asarray(RoutingTrace.open(folder / "weighted").ids)
    # Requests of six tokens (the last output token is not fed back): sequences 1 and 3.
    passes = [(5, 9), (9, 10), (10, 11), (20, 24), (24, 25), (25, 26)]
    for record, (first, last) in zip(run.records, passes, strict=True):
        assert (record.demand.ids == ids[first:last]).all()
    assert [record.iteration.new for record in run.records] == [True, False, False] * 2
    assert [record.iteration.context for record in run.records] == [4, 5, 6] * 2


def test_important_experts_come_first_where_weights_matter(folder: Path) -> None:
    description = recorded(folder, offload={"slots": 4, "cache": "hobbit"}, phase="decode", steps=3)
    runner = prepared(description)
    for record in runner.run():
        for asked in record.demand.layers:
            assert asked.weights is not None
            assert (np.diff(asked.weights[0]) <= 0).all()
            assert asked.classes is not None
            assert asked.classes[0] == 0


def told(folder: Path, description: Mapping) -> str:
    """Run through the command line; returns the one line that refuses it."""
    path = folder / "s.yaml"
    path.write_text(yaml.safe_dump(json.loads(json.dumps(description))), encoding="utf-8")
    done = CliRunner().invoke(main, ["simulate", str(path)])
    assert done.exit_code == 2, (done.output, done.exception)
    assert len(done.output.strip().splitlines()) == 1, done.output
    return done.output


def test_short_traces_are_refused_with_what_there_is(folder: Path) -> None:
    text = told(folder, recorded(folder, requests={"count": 1, "prompt": 40, "output": 3}))
    assert "a request of 42 tokens does not fit into the 29 that are simulated" in text
    assert "ask for a shorter prompt or output" in text
    text = told(folder, recorded(folder, phase="decode", steps=30))
    assert "a request of 30 tokens does not fit into the 29" in text


@pytest.mark.parametrize("cache", ["hobbit", "mrs", "lhu"])
def test_traces_without_weights_are_refused_where_they_are_needed(folder: Path, cache: str) -> None:
    text = told(folder, recorded(folder, "bare", {"slots": 4, "cache": cache}, phase="decode", steps=3))
    assert "needs gate weights, and the trace has none" in text
    assert "s.yaml:" in text, text
    run = ran(recorded(folder, "bare", {"slots": 4}, phase="decode", steps=3))
    assert run.totals["accesses"] == 24


def test_counts_are_refused(folder: Path) -> None:
    text = told(folder, recorded(folder, "counts", phase="decode", steps=2))
    assert "counts" in text
    assert "single tokens" in text


def test_a_cache_that_needs_a_past_is_refused_without_one(folder: Path) -> None:
    text = told(folder, recorded(folder, offload={"slots": 4, "cache": "static"}, phase="decode", steps=2))
    assert "needs a profile of the past" in text
    assert "s.yaml:" in text


@settings(max_examples=40)
@given(
    seed=st.integers(0, 99),
    devices=st.integers(1, 2),
    sequences=st.integers(1, 3),
    prompt=st.integers(1, 5),
    experts=st.integers(3, 9),
    k=st.integers(1, 3),
)
def test_demand_is_what_tokens_ask_for_counted_one_by_one(
    seed: int, devices: int, sequences: int, prompt: int, experts: int, k: int
) -> None:
    source = local(seed, 2, experts, k)
    workload = Workload("decode", 1, sequences, 16, requests=Requests(2, prompt, 3))
    mix = Precisions(0.3, 0.6, 0.5, 0.5)
    demands = Demands(source, workload, devices, sequences, experts, mix, weighted=True)
    for iteration in iterations(workload, sequences):
        demand = demands.of(iteration)
        rows = range(prompt) if iteration.phase == "prefill" else [iteration.first]
        first = iteration.group * devices * sequences
        whole = [source.request(first + number, prompt + 2) for number in range(devices * sequences)]
        for layer, asked in enumerate(demand.layers):
            tokens: dict[int, int] = {}
            worth: dict[int, float] = {}
            kinds: dict[int, int] = {}
            for request in whole:
                assert request.weights is not None
                for row in rows:
                    weights = request.weights[row, layer]
                    classes = precision_of(weights[np.newaxis], mix.t1, mix.t2)[0].tolist()
                    for expert, weight, kind in zip(
                        request.ids[row, layer].tolist(), weights.tolist(), classes, strict=True
                    ):
                        tokens[expert] = tokens.get(expert, 0) + 1
                        worth[expert] = worth.get(expert, 0.0) + weight
                        kinds[expert] = min(kinds.get(expert, 2), kind)
            assert dict(zip(asked.experts, asked.tokens, strict=True)) == tokens
            assert asked.classes is not None
            assert dict(zip(asked.experts, asked.classes, strict=True)) == kinds
            falling = [worth[expert] for expert in asked.experts]
            assert all(one >= other - 1e-12 for one, other in pairwise(falling))
            assert demand.copies[layer].sum() == len(whole) * len(rows) * k
            load = demand.load(devices, experts)
            assert load.counts[layer].sum() == demand.copies[layer].sum()
            for device in range(devices):
                mine = whole[device * sequences : (device + 1) * sequences]
                own = np.concatenate([request.ids[list(rows), layer].ravel() for request in mine])
                assert (load.counts[layer, device] == np.bincount(own, minlength=experts)).all()


def test_attention_over_a_growing_context_is_close_to_that_of_each_length() -> None:
    description = described({"ratio": 1.0}, workload={"requests": {"count": 1, "prompt": 500, "output": 60}})
    run = ran(description)
    prices = run.runner.prices
    for record in run.records[1::7]:
        exact = prices.own("decode", 1, record.iteration.context)
        assert record.own.before == pytest.approx(exact.before, rel=2e-3)
    contexts = [record.iteration.context for record in run.records]
    assert contexts == [500, *range(501, 560)]
