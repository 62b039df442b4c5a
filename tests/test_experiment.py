"""Running scenarios from Python: progress, workers, interrupts."""

from __future__ import annotations

import multiprocessing
import threading
from pathlib import Path

import pandas as pd
import pytest

from moesim import compare, experiment, load_scenario, simulate
from moesim.engine.step import StepRunner
from moesim.errors import InputError
from moesim.experiment import Interrupted
from moesim.policies import create_policy

TINY = Path(__file__).parent / "data" / "tiny.yaml"


def tiny(*overrides):
    return load_scenario(TINY, overrides=overrides)


def assert_same(left, right):
    assert left.summary(timing=False) == right.summary(timing=False)
    for name, frame in left.tables.items():
        pd.testing.assert_frame_equal(frame, right.tables[name], check_exact=True)


def test_simulate_runs_the_first_policy_unless_told():
    assert simulate(tiny()).policy == "ep"
    assert simulate(tiny(), policy="llep").policy == "llep"
    assert simulate(tiny(), policy="round_robin").policy == "round_robin"


def test_progress_is_told_after_every_step():
    seen = []
    compare(tiny(), ["ep", "llep"], progress=lambda *told: seen.append(told))
    assert seen == [("ep", 1, 2), ("ep", 2, 2), ("llep", 1, 2), ("llep", 2, 2)]


def test_any_number_of_workers_gives_the_same_tables():
    seen = []
    alone = compare(tiny())
    beside = compare(tiny(), workers=2, progress=lambda *told: seen.append(told))
    assert alone.to_dict() == beside.to_dict()
    for left, right in zip(alone.results, beside.results, strict=True):
        assert_same(left, right)
    assert seen[-1] == ("policies", 3, 3)
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)


def test_the_policies_saw_the_same_tokens():
    tokens = [result.steps[["tokens", "copies"]] for result in compare(tiny()).results]
    for other in tokens[1:]:
        pd.testing.assert_frame_equal(tokens[0], other)


def interrupt_after(count):
    """Make a progress function that is interrupted like a person would."""
    calls = []

    def progress(*told):
        calls.append(told)
        if len(calls) == count:
            raise KeyboardInterrupt

    return progress


def test_an_interrupted_run_is_the_run_of_the_steps_that_are_done():
    with pytest.raises(Interrupted, match="2 of 5 steps") as caught:
        simulate(tiny("workload.steps=5"), progress=interrupt_after(2))
    done = caught.value.done
    assert len(done.steps) == done.scenario["workload"]["steps"] == 2
    assert_same(done, simulate(tiny("workload.steps=2")))


def test_an_interrupt_inside_the_first_step_leaves_nothing(monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(StepRunner, "run", interrupted)
    with pytest.raises(KeyboardInterrupt) as caught:
        simulate(tiny())
    assert not isinstance(caught.value, Interrupted)


def test_an_interrupt_after_the_last_step_changes_nothing():
    result = simulate(tiny(), progress=interrupt_after(2))
    assert_same(result, simulate(tiny()))


def test_an_interrupted_comparison_keeps_finished_policies():
    with pytest.raises(Interrupted, match="2 of 3 policies") as caught:
        compare(tiny("workload.steps=3"), baseline="llep", progress=interrupt_after(7))
    done = caught.value.done
    assert [result.policy for result in done.results] == ["ep", "eplb"]
    assert done.baseline.policy == "ep", "the baseline that was asked for is not done"
    assert [len(result.steps) for result in done.results] == [3, 3]


def test_a_comparison_interrupted_in_its_first_policy_has_nothing_to_keep():
    with pytest.raises(KeyboardInterrupt) as caught:
        compare(tiny("workload.steps=3"), progress=interrupt_after(1))
    assert not isinstance(caught.value, Interrupted)


def test_workers_end_with_an_interrupt():
    before = multiprocessing.active_children()

    def progress(name, done, total):
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(tiny("workload.steps=20000"), ["ep", "llep"], workers=2, progress=interrupt_after(1))
    assert multiprocessing.active_children() == before
    with pytest.raises(Interrupted) as caught:
        compare(tiny(), workers=2, progress=progress)
    assert caught.value.done.results
    assert multiprocessing.active_children() == before


def test_a_worker_that_dies_is_an_error_not_a_hang():
    others = multiprocessing.active_children()

    def kill(*_told):
        for child in multiprocessing.active_children():
            if child not in others:
                child.kill()

    with pytest.raises(InputError, match="worker process died"):
        compare(tiny("workload.steps=100000"), workers=2, progress=kill)


@pytest.mark.slow
def test_comparisons_run_outside_the_main_thread_too():
    found = []
    thread = threading.Thread(target=lambda: found.append(compare(tiny(), ["ep", "llep"], workers=2)))
    thread.start()
    thread.join()
    assert found[0].to_dict() == compare(tiny(), ["ep", "llep"]).to_dict()


@pytest.mark.parametrize(
    ("policies", "baseline", "says"),
    [
        ([], None, "at least one policy"),
        (["ep", "ep"], None, "there twice"),
        (["ep"], "llep", "no policy in this comparison named 'llep'"),
        (["ep", "llepp"], None, "did you mean 'llep'"),
    ],
)
def test_names_are_checked_before_the_first_step(monkeypatch, policies, baseline, says):
    monkeypatch.setattr(experiment, "run", lambda *_: pytest.fail("a step ran"))
    with pytest.raises(InputError, match=says):
        compare(tiny(), policies, baseline)


def test_policies_may_be_objects():
    by_name = compare(tiny(), ["ep", "round_robin"])
    by_object = compare(tiny(), [create_policy("ep"), create_policy("round_robin")])
    assert by_name.to_dict() == by_object.to_dict()
    assert simulate(tiny(), create_policy("llep")).policy == "llep"
