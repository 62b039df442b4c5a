"""Predictors keep what is known, foretell by what they say they see, and can be asked for by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim import load_scenario, simulate
from moesim.errors import InputError
from moesim.policies import create_dispatch, create_policy
from moesim.policies.parameters import PolicyInputError
from moesim.policies.past import Past
from moesim.policies.prediction import PREDICTORS, create_predictor
from moesim.policies.prediction.rounding import rounded
from moesim.routing.load import Load
from moesim.testing import dispatch_inputs, make_load, make_view

LOAD = make_load([[[6, 2, 0, 0], [0, 0, 5, 3]]], 2)
PAST = Past.of_counts([[10, 20, 30, 40]])


def after(*steps):
    """A past whose run has had these steps, [experts] each."""
    seen = np.asarray(steps, dtype=np.int64)[:, np.newaxis]
    return replace(PAST, recent_of=lambda count: seen[-count:])


def predicted(given_, past=PAST, load=LOAD):
    return create_predictor(given_).predict(load, make_view(2, 4, past=past)).counts[0].tolist()


def test_the_oracle_knows():
    assert predicted("oracle") == LOAD.counts[0].tolist()


def test_the_distribution_is_that_of_the_past_scaled_to_each_source():
    assert predicted("distribution", load=make_load([[[10, 0, 0, 0], [0, 20, 0, 0]]], 2)) == [
        [1, 2, 3, 4],
        [2, 4, 6, 8],
    ]


def test_rounding_gives_the_largest_remainders_a_copy_more():
    # 8 copies by 0.1, 0.2, 0.3, 0.4: 0.8, 1.6, 2.4, 3.2.
    assert predicted("distribution") == [[1, 2, 2, 3], [1, 2, 2, 3]]


def test_without_a_past_all_experts_are_alike():
    assert predicted("distribution", None) == [[2, 2, 2, 2]] * 2
    assert predicted("last_window", None) == [[2, 2, 2, 2]] * 2


def test_the_last_window_is_the_step_before_and_at_first_the_end_of_the_past():
    assert predicted("last_window", after([4, 0, 0, 0], [0, 1, 0, 1])) == [[0, 4, 0, 4]] * 2
    assert predicted("last_window") == predicted("distribution")


def test_older_steps_count_less():
    steps = after([9, 0, 0, 0], [0, 7, 0, 0], [0, 0, 5, 0])
    # Shares of the steps weigh 1/4, 1/2 and 1 of 7/4, whatever their sizes.
    load = make_load([[[7, 0, 0, 0], [0, 0, 0, 0]]], 2)
    assert predicted({"kind": "moving_average", "decay": 0.5}, steps, load)[0] == [1, 2, 4, 0]
    assert predicted({"kind": "moving_average", "decay": 0}, steps, load)[0] == [0, 0, 7, 0]
    assert predicted({"kind": "moving_average", "decay": 0.5, "windows": 1}, steps, load)[0] == [0, 0, 7, 0]


@pytest.mark.parametrize(
    ("accuracy", "first"), [(1, [6, 2, 0, 0]), (0, [1, 2, 2, 3]), (0.5, [3, 1 + 1, 1, 2])]
)
def test_a_share_of_the_copies_is_predicted_right(accuracy, first):
    assert predicted({"kind": "token_to_expert", "accuracy": accuracy})[0] == first


@settings(max_examples=60)
@given(dispatch_inputs(), st.sampled_from(sorted(PREDICTORS)), st.floats(0, 1))
def test_predictions_have_the_copies_that_are_known(case, kind, accuracy):
    given_ = {"kind": kind} | ({"accuracy": accuracy} if kind == "token_to_expert" else {})
    found = create_predictor(given_).predict(case.load, case.view)
    assert found.counts.dtype == np.int64
    assert found.counts.shape == case.load.counts.shape
    np.testing.assert_array_equal(found.counts.sum(axis=2), case.load.counts.sum(axis=2))
    np.testing.assert_array_equal(found.tokens, case.load.tokens)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=9), st.integers(0, 10**6))
def test_rounding_keeps_totals_and_is_off_by_less_than_one(parts, total):
    ideal = np.asarray(parts)
    ideal = ideal / ideal.sum() * total if ideal.sum() > 0 else np.full(len(parts), total / len(parts))
    found = rounded(ideal, np.asarray(total))
    assert found.sum() == total
    assert (np.abs(found - ideal) < 1 + 1e-5).all()


def wrong_share(accuracy: float) -> float:
    counts = np.random.default_rng(5).multinomial(4096, [0.4, 0.3, 0.2, 0.1], size=(3, 2))
    load = Load(counts, np.asarray([4096, 4096]))
    made = create_predictor({"kind": "token_to_expert", "accuracy": accuracy})
    found = made.predict(load, make_view(2, 4, past=Past.of_counts([[10, 20, 30, 40]] * 3)))
    return float(np.abs(found.per_expert - load.per_expert).sum())


def test_a_better_predictor_is_less_wrong():
    wrong = [wrong_share(accuracy) for accuracy in (0, 0.25, 0.5, 0.75, 1)]
    assert wrong == sorted(wrong, reverse=True)
    assert wrong[-1] == 0
    assert wrong[1] == pytest.approx(0.75 * wrong[0], rel=0.01)


@pytest.mark.parametrize(
    ("given_", "message", "key"),
    [
        (
            {"kind": "token_to_expert", "accuracy": 1.2},
            r"'accuracy' is 1.2, input should be less than or equal to 1",
            ("predictor", "accuracy"),
        ),
        ({"kind": "token_to_expert", "accuracy": -0.1}, "'accuracy' is -0.1", ("predictor", "accuracy")),
        ({"kind": "token_to_expert", "accuracy": "high"}, "'accuracy' is 'high'", ("predictor", "accuracy")),
        ({"kind": "moving_average", "decay": 2}, "'decay' is 2", ("predictor", "decay")),
        ({"kind": "oracle", "accuracy": 1}, "has no parameter 'accuracy'", ("predictor", "accuracy")),
        ("orakel", "there is no predictor named 'orakel'", ("predictor", "kind")),
        ({"accuracy": 1}, "a predictor is a name or a mapping with 'kind'", ("predictor",)),
        (3, "a predictor is a name or a mapping with 'kind'", ("predictor",)),
    ],
)
def test_predictors_that_do_not_exist_are_refused(given_, message, key):
    with pytest.raises(PolicyInputError, match=message) as caught:
        create_dispatch("lina", {"predictor": given_})
    assert caught.value.key == key
    with pytest.raises(InputError, match=message):
        create_policy({"name": "mine", "dispatch": {"kind": "lina", "predictor": given_}})


@pytest.mark.parametrize("name", ["fastermoe", "janus", "lina", "prophet"])
def test_overhead_is_charged_with_planning(name):
    without = create_dispatch(name, {"predictor": "distribution"})
    costly = create_dispatch(name, {"predictor": {"kind": "distribution", "overhead_s": "2 ms"}})
    assert costly.planning_seconds(8, 4) == pytest.approx(without.planning_seconds(8, 4) + 2e-3)


def test_parameters_of_predictors_are_written_out():
    policy = create_dispatch("lina", {"predictor": {"kind": "token_to_expert", "accuracy": 0.7}})
    assert policy.parameters.model_dump(mode="json")["predictor"] == {
        "kind": "token_to_expert",
        "overhead_s": 0.0,
        "accuracy": 0.7,
    }
    assert str(policy.parameters.predictor) == "token_to_expert(accuracy=0.7)"


def test_a_wrong_accuracy_is_found_in_the_file(tmp_path):
    tiny = Path(__file__).parent / "data" / "tiny.yaml"
    (tmp_path / "tiny.yaml").write_text(tiny.read_text())
    file = tmp_path / "mine.yaml"
    file.write_text(
        "extends: tiny.yaml\nname: mine\npolicies:\n  - name: lina\n    dispatch:\n"
        "      predictor: {kind: token_to_expert, accuracy: 1.5}\n"
    )
    with pytest.raises(InputError, match=r"'accuracy' is 1\.5") as caught:
        simulate(load_scenario(file))
    assert (caught.value.line, caught.value.column) == (6, 52)
