"""Intervals of means, differences and ratios."""

from __future__ import annotations

import numpy as np
import pytest

from moesim.results.statistics import difference_of, mean_of, ratio_of


def test_one_seed_is_the_textbook_interval():
    steps = np.asarray([1.0, 2.0, 3.0, 4.0])
    found = mean_of([[steps]])
    half = 3.182446305284263 * steps.std(ddof=1) / 2  # t quantile of 3 degrees of freedom
    assert found.mean == 2.5
    assert found.interval == pytest.approx([2.5 - half, 2.5 + half])


def test_several_seeds_are_judged_by_their_means():
    seeds = [np.asarray([1.0, 3.0]), np.asarray([4.0, 4.0]), np.asarray([6.0, 6.0])]
    means = np.asarray([2.0, 4.0, 6.0])
    half = 4.302652729696142 * means.std(ddof=1) / np.sqrt(3)
    found = mean_of([seeds])
    assert found.interval == pytest.approx([4 - half, 4 + half])


def test_traces_are_strata():
    first, second = np.asarray([1.0, 2.0, 3.0]), np.asarray([10.0, 14.0, 12.0])
    found = mean_of([[first], [second]])
    variance = (first.var(ddof=1) + second.var(ddof=1)) / 3
    freedom = variance**2 / sum((part.var(ddof=1) / 3) ** 2 / 2 for part in (first, second))
    assert found.mean == 7.0
    assert 2 < freedom < 4
    half = (found.high - found.low) / 2
    assert 2.776 * np.sqrt(variance) / 2 < half < 4.303 * np.sqrt(variance) / 2


def test_a_single_step_has_no_interval_and_equal_ones_a_point():
    assert mean_of([[np.asarray([3.0])]]).interval is None
    assert mean_of([[np.asarray([3.0, 3.0])]]).interval == [3.0, 3.0]
    assert ratio_of([[np.asarray([3.0])]], [[np.asarray([2.0])]]).mean == 1.5


def test_pairing_takes_out_what_is_shared():
    random = np.random.default_rng(0)
    shared = random.normal(10, 3, 200)
    one, two = shared + random.normal(0, 0.1, 200), shared + 0.5 + random.normal(0, 0.1, 200)
    paired = difference_of([[two]], [[one]])
    alone = mean_of([[two]])
    assert paired.low > 0.4
    assert paired.high < 0.6
    assert alone.high - alone.low > 10 * (paired.high - paired.low)


def test_steps_that_resemble_each_other_count_less():
    random = np.random.default_rng(1)
    noise = random.normal(0, 1, 400)
    walk = np.zeros(400)
    for step in range(1, 400):
        walk[step] = 0.9 * walk[step - 1] + noise[step]
    plain, tied = mean_of([[random.permutation(walk)]]), mean_of([[walk]])
    assert tied.high - tied.low > 2.5 * (plain.high - plain.low)


@pytest.mark.parametrize("seeds", [1, 4])
def test_intervals_cover_the_truth_as_often_as_they_say(seeds):
    random = np.random.default_rng(2)
    hits = 0
    for _ in range(400):
        above = [random.normal(3.0, 0.5, 12) for _ in range(seeds)]
        below = [random.normal(2.0, 0.2, 12) for _ in range(seeds)]
        hits += bool(ratio_of([above], [below]).around(1.5))
    assert 0.91 <= hits / 400 <= 0.985
