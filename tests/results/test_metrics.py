from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.results.metrics import bound_fraction, imbalance, plain, ratio, spread


def test_imbalance_is_one_for_even_idle_and_single_devices():
    assert imbalance([5, 5, 5]) == 1.0
    assert imbalance([0, 0]) == 1.0
    assert imbalance([9]) == 1.0


def test_imbalance_of_one_busy_device_is_the_number_of_devices():
    assert imbalance([[12, 0, 0, 0], [3, 3, 3, 3]]).tolist() == [4.0, 1.0]


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=50))
def test_imbalance_lies_between_one_and_the_number_of_devices(copies):
    assert 1.0 - 1e-12 <= float(imbalance(copies)) <= len(copies) + 1e-9


def test_spread_interpolates_between_samples():
    found = spread([1.0, 2.0, 3.0, 4.0])
    assert found == pytest.approx({"mean": 2.5, "p50": 2.5, "p95": 3.85, "p99": 3.97})


@given(st.lists(st.floats(1e-9, 1e3), min_size=1, max_size=40))
def test_percentiles_are_ordered_and_within_the_samples(samples):
    found = spread(samples)
    assert min(samples) <= found["p50"] <= found["p95"] <= found["p99"] <= max(samples)


def test_spread_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one sample"):
        spread([])


def test_ratio_knows_nothing_over_nothing():
    assert ratio(0, 0) == 1.0
    assert ratio(1, 0) == math.inf
    assert bound_fraction(1.0, 4.0) == 0.25


def test_plain_data_is_strict_json():
    data = {
        1: np.int64(3),
        "nan": math.nan,
        "inf": np.float64(math.inf),
        "array": np.arange(2),
        "set": {"b", "a"},
        "flag": np.bool_(True),
    }
    text = json.dumps(plain(data), allow_nan=False)
    assert json.loads(text) == {
        "1": 3,
        "nan": None,
        "inf": None,
        "array": [0, 1],
        "set": ["a", "b"],
        "flag": True,
    }
