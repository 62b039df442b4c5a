"""Collectives and expert-parallel exchange: physical properties, and errors on rows that were not fitted."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.accuracy import collectives, ep
from moesim.accuracy.protocols import leave_model_out
from moesim.errors import InputError
from moesim.hardware.distinct import distinct_limited, distinct_units, pairs_per_token, spared
from moesim.hardware.expert_exchange import (
    LowLatencyConstants,
    NormalConstants,
    RackConstants,
    low_latency_seconds,
    normal_seconds,
    rack_seconds,
)
from moesim.hardware.network_constants import model_constants, node_links
from moesim.hardware.protocols import OPERATIONS, CollectiveConstants, collective_seconds
from moesim.measured import tables

measurements = pytest.mark.skipif(
    not tables.installed(), reason="the measured tables (extra 'measured') are not installed"
)
SIZES = 2.0 ** np.arange(10, 30)
NVLINK = ["A100-SXM-80GB", "H100-SXM", "H200-SXM", "B200-SXM", "B300-SXM", "GB200", "GB300"]


def exchange(kernel, tokens, rate=450e9, nic=47e9, faster=1.0, nodes=2):
    """Price a dispatch of top-8 of 256 experts on H100 (rack: GB200), all rates and latencies scaled."""
    tokens = np.asarray(tokens, dtype=float)
    if kernel == "low_latency":
        constants = LowLatencyConstants.of(model_constants("low_latency_dispatch", "H100-SXM")).faster(faster)
        return low_latency_seconds(
            tokens, 8, 256, 7408, nodes, 8, 132, rate * faster, nic * faster, constants
        )
    if kernel == "normal":
        constants = NormalConstants.of(model_constants("normal_dispatch", "H100-SXM")).faster(faster)
        pairs = pairs_per_token(nodes, 8, 256, 8, 4)
        return normal_seconds(tokens, *pairs, 7392, nodes, 8, 20, rate * faster, nic * faster, constants)
    constants = RackConstants.of(model_constants("rack_dispatch", "GB200")).faster(faster)
    return rack_seconds(tokens, 8, 14336, 8, rate * faster, constants)


KERNELS = ["low_latency", "normal", "rack"]


@given(
    st.sampled_from(OPERATIONS),
    st.sampled_from([*NVLINK, "L40S", "RTX-PRO-6000"]),
    st.sampled_from([2, 4, 8]),
)
@settings(max_examples=60, deadline=None)
def test_a_collective_grows_with_size_shrinks_with_rate_and_scales(operation, device, count):
    constants = CollectiveConstants.of(model_constants(operation, device))
    links = node_links(device)
    seconds = collective_seconds(operation, count, SIZES, links.rate, constants, links.island)
    assert np.isfinite(seconds).all()
    assert (np.diff(seconds) >= 0).all()
    slower = collective_seconds(operation, count, SIZES, links.rate / 1.5, constants, links.island)
    assert (slower >= seconds).all()
    twice = collective_seconds(operation, count, SIZES, 2 * links.rate, constants.faster(2.0), links.island)
    np.testing.assert_allclose(twice, seconds / 2, rtol=1e-14)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_nothing_to_send_or_nobody_to_send_to_takes_no_time(operation):
    constants = CollectiveConstants.of(model_constants(operation, "H100-SXM"))
    seconds = collective_seconds(operation, [8, 1], [0.0, 1e6], 450e9, constants)
    np.testing.assert_array_equal(seconds, 0.0)


@pytest.mark.parametrize("kernel", KERNELS)
def test_an_exchange_grows_with_tokens_shrinks_with_rates_and_scales(kernel):
    tokens = 2.0 ** np.arange(0, 17)
    seconds = exchange(kernel, tokens)
    assert np.isfinite(seconds).all()
    assert (np.diff(seconds) > 0).all()
    assert (exchange(kernel, tokens, rate=300e9, nic=25e9) >= seconds).all()
    np.testing.assert_allclose(exchange(kernel, tokens, faster=2.0), seconds / 2, rtol=1e-13)
    assert exchange(kernel, 0.0) == 0.0


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("rate", [0.0, -1.0, np.nan, np.inf])
def test_a_link_without_a_proper_rate_is_refused(kernel, rate):
    with pytest.raises(InputError):
        exchange(kernel, 128, rate=rate)


@pytest.mark.parametrize(("rate", "size"), [(0.0, 1e6), (450e9, -1.0), (450e9, np.nan), (np.nan, 1e6)])
def test_a_collective_refuses_impossible_numbers(rate, size):
    constants = CollectiveConstants.of(model_constants("all_gather", "H100-SXM"))
    with pytest.raises(InputError):
        collective_seconds("all_gather", 8, size, rate, constants)


def test_unknown_names_are_refused_with_what_is_known():
    with pytest.raises(InputError, match="H100"):
        node_links("H10-SXM")
    with pytest.raises(InputError):
        model_constants("all_gathers", "H100-SXM")
    with pytest.raises(InputError):
        CollectiveConstants.of({"start": 1.0})
    with pytest.raises(InputError):
        CollectiveConstants.of({"start_s": float("nan")})


def test_expected_destinations_match_drawn_ones():
    rng = np.random.default_rng(0)
    scores = rng.random((20_000, 256))
    best = np.sort(scores.reshape(-1, 8, 32).max(axis=2), axis=1)[:, 4]
    allowed = np.repeat(scores.reshape(-1, 8, 32).max(axis=2) >= best[:, None], 32, axis=1)
    chosen = np.argsort(np.where(allowed, scores, 0.0), axis=1)[:, -8:]
    nodes = np.mean([len(set(row)) for row in (chosen // 32).tolist()])
    devices = np.mean([len(set(row)) for row in (chosen // 4).tolist()])
    expected = pairs_per_token(8, 8, 256, 8, 4)
    assert expected[0] == pytest.approx(nodes, rel=0.002)
    assert expected[1] == pytest.approx(devices, rel=0.02)


@pytest.mark.parametrize(
    ("value", "published"),
    [
        (distinct_units(8, 256, 8), 5.28),
        (distinct_limited(2, 256, 8, 4), 1.99),
        (distinct_limited(4, 256, 8, 4), 3.60),
        (distinct_limited(8, 256, 8, 4), 3.99),
    ],
)
def test_destinations_are_those_of_deepeps_test(value, published):
    assert value == pytest.approx(published, abs=0.02)


def test_a_group_limit_spares_as_many_nodes_and_devices_as_drawing_shows():
    rng = np.random.default_rng(0)
    for nodes in (2, 4, 8, 16):
        scores = rng.random((10_000, 256))
        best = scores.reshape(-1, 8, 32).max(axis=2)
        allowed = np.repeat(best >= np.sort(best, axis=1)[:, [4]], 32, axis=1)
        drawn = []
        for ranked in (scores, np.where(allowed, scores, 0.0)):
            chosen = np.argsort(ranked, axis=1)[:, -8:]
            drawn.append(np.mean([len(set(row)) for row in (chosen // (256 // nodes)).tolist()]))
        assert spared(nodes, 256, 8, 8, 4) == pytest.approx(drawn[1] / drawn[0], rel=0.02)


@given(st.integers(1, 40), st.sampled_from([1, 2, 4, 8]), st.integers(1, 8))
def test_a_looser_group_limit_never_spares_more(units, groups, limit):
    shares = [spared(units, 64, 4, groups, bound) for bound in range(1, groups + 1)]
    assert shares == sorted(shares)
    assert 0 < shares[0] <= shares[-1] == 1.0
    assert spared(units, 64, 4, groups, limit + groups) == 1.0


def test_a_device_is_missed_with_the_odds_of_drawing_without_putting_back():
    assert distinct_units(4, 8, 3) == pytest.approx(4 * (1 - comb(6, 3) / comb(8, 3)))
    with pytest.raises(InputError):
        distinct_units(3, 8, 2)


@measurements
@pytest.mark.parametrize("device", ["H100-SXM", "B200-SXM"])
@pytest.mark.parametrize("family", collectives.FAMILIES, ids=lambda family: family.name)
def test_collectives_of_other_counts_are_predicted(family, device):
    rows = family.measured(device)
    rows = rows[rows["dtype"] == "fp16"]
    errors = [
        np.abs(family.predict(train, test) / test["seconds"].to_numpy() - 1)
        for train, test in leave_model_out(rows)
    ]
    assert len(errors) == 3
    assert np.median(np.concatenate(errors)) <= 0.10


@measurements
def test_stored_constants_fit_what_they_were_fitted_to():
    medians = []
    for family in collectives.FAMILIES:
        for device in NVLINK:
            rows = family.measured(device)
            constants = CollectiveConstants.of(model_constants(family.name, device))
            seconds = collectives.predicted(family.name, rows, constants)
            medians.append(np.median(np.abs(seconds / rows["seconds"].to_numpy() - 1)))
    assert max(medians) <= 0.08


@measurements
@pytest.mark.parametrize(
    ("device", "backend", "direction", "bound"),
    [
        ("H100-SXM", "deepep_low_latency (sglang 0.5.12)", "ep_dispatch", 0.06),
        ("H100-SXM", "deepep_low_latency (sglang 0.5.6)", "ep_dispatch", 0.08),
        ("H100-SXM", "deepep_normal (sglang 0.5.6)", "ep_combine", 0.10),
        ("GB200", "trtllm_NVLinkTwoSided", "ep_dispatch", 0.08),
    ],
)
def test_exchanges_of_other_shapes_are_predicted(device, backend, direction, bound):
    family = next(one for one in ep.FAMILIES if one.name == direction)
    rows = family.measured(device)
    rows = rows[rows["backend"] == backend]
    rows = rows[rows["dtype"] == rows["dtype"].iloc[0]]
    errors = [
        np.abs(family.predict(train, test) / test["seconds"].to_numpy() - 1)
        for train, test in leave_model_out(rows)
    ]
    assert len(errors) >= 4
    assert np.median(np.concatenate(errors)) <= bound


@measurements
def test_a_prediction_does_not_look_at_what_was_measured():
    family = collectives.FAMILIES[1]
    train, test = next(iter(leave_model_out(family.measured("GB200"))))
    first = family.predict(train, test)
    np.testing.assert_array_equal(family.predict(train, test.assign(seconds=1.0)), first)


@measurements
def test_one_measurement_filed_under_two_devices_counts_once():
    rows = ep.FAMILIES[0].measured("H200-SXM")
    assert set(rows["nodes"]) == {1}
    assert set(ep.FAMILIES[0].measured("H100-SXM")["nodes"]) == {1, 2, 4, 8}
