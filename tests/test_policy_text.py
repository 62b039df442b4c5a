"""Policies written on one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim import load_scenario
from moesim.errors import InputError
from moesim.scenario.policy_named import every_policy, policies_from_text, policy_from_text
from moesim.scenario.policy_text import read_policies

TINY = load_scenario(Path(__file__).parent / "data" / "tiny.yaml")


def made(text):
    return [
        (policy.name, policy.placement.name, policy.dispatch.name)
        for policy in policies_from_text(TINY, text)
    ]


def test_names_combinations_and_parameters_make_policies():
    assert made(" ep , llep(alpha = 1.2),eplb + llep ,, round_robin") == [
        ("ep", "contiguous", "standard"),
        ("llep(alpha = 1.2)", "contiguous", "llep"),
        ("eplb + llep", "eplb", "llep"),
        ("round_robin", "round_robin", "standard"),
    ]


def test_a_parameter_goes_to_the_half_that_has_it():
    policy = policy_from_text(TINY, "eplb_llep(redundant=2, lambda=1.7, planning_fixed_s=3us)")
    assert policy.placement.parameters.redundant == 2
    assert policy.dispatch.parameters.threshold == 1.7
    assert policy.dispatch.parameters.planning_fixed_s == pytest.approx(3e-6)


def test_halves_may_be_mappings_and_a_name_may_be_given():
    policy = policy_from_text(
        TINY, "llep(placement={kind: eplb, mode: global}, dispatch={alpha: 2}, name='a, b')"
    )
    assert (policy.name, policy.placement.name, policy.placement.parameters.mode) == (
        "a, b",
        "eplb",
        "global",
    )
    assert policy.dispatch.parameters.alpha == 2
    assert policy_from_text(TINY, "llep(placement=eplb)").placement.name == "eplb"


def test_the_scenarios_own_settings_stay_unless_changed():
    assert policy_from_text(TINY, "eplb").placement.parameters.redundant == 4
    changed = policy_from_text(TINY, "eplb(mode=global)")
    assert changed.placement.parameters.redundant == 4
    assert changed.placement.parameters.mode == "global"
    assert policy_from_text(TINY, "eplb+standard").placement.parameters.redundant is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("llep(alpa=1)", "character 6: policy 'llep' has no parameter 'alpa' (did you mean 'alpha'?)"),
        ("ep, llep(alpha=-1)", "character 10: dispatch policy 'llep': 'alpha' is -1"),
        ("llep(alpha=1", "character 13: expected ')', got the end"),
        ("llep(alpha=)", "character 12: expected a value for 'alpha', got ')'"),
        ("llep(alpha)", "character 11: expected '=' after 'alpha', got ')'"),
        ("llep alpha", "character 6: expected ',', '+' or '('"),
        ("llep(alpha=1,alpha=2)", "character 14: 'alpha' is there twice"),
        ("llep(m=1,min_tokens_per_gemm=2)", "the same parameter"),
        ("ep,eplb+leep", "character 9: there is no dispatch policy named 'leep' (did you mean 'llep'?)"),
        ("contigous+llep", "character 1: there is no placement policy named 'contigous'"),
        ("lleep(alpha=1)", "character 1: there is no policy named 'lleep' (did you mean 'llep'?)"),
        ("lleep", "there is no policy named 'lleep' (did you mean 'llep'?)"),
        ("llep(alpha=[1)", "character 14: expected ']', got ')'"),
        ("llep(alpha={a: 1)", "character 17: expected '}', got ')'"),
        ("llep(alpha='1", "character 14: expected '''"),
        ("llep(alpha=1))", "character 14: expected ','"),
        ("a+b+c", "character 4: expected ',', got '+'"),
        ("+", "character 1: expected the name of a policy"),
        ("llep(alpha=true)", "character 6: dispatch policy 'llep': 'alpha' cannot be true"),
        ("llep(alpha=!x 1)", "character "),
        ("llep(dispatch={alpa: 1})", "character 6: dispatch policy 'llep' has no parameter 'alpa'"),
        ("ep+llep", "there is no placement policy named 'ep'"),
        ("", "a policy needs a name"),
        ("ep,llep", "expected one policy, got 2"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(text, says):
    with pytest.raises(InputError) as caught:
        policy_from_text(TINY, text) if text in ("", "ep,llep") else policies_from_text(TINY, text)
    assert says in str(caught.value)


@given(st.text(alphabet="ep,llb(=+){}[]'\" 1alh:\\", max_size=24))
def test_any_text_is_read_or_refused(text):
    try:
        found = read_policies(text, ["ep"])
    except InputError:
        return
    assert all(part.name and part.at > 0 for policy in found for part in policy.parts)


def test_names_with_blanks_of_a_scenario_are_known():
    (found,) = read_policies("my best (a=1)", ["my best", "my"])
    assert (found.parts[0].name, dict(found.parts[0].parameters)) == ("my best", {"a": 1})


def test_every_policy_comes_once():
    found = every_policy(TINY)
    names = [policy.name for policy in found]
    assert names[:3] == ["ep", "eplb", "llep"]
    assert {"round_robin", "eplb_llep"} <= set(names)
    assert len(names) == len(set(names))
    kinds = {(policy.placement.name, policy.dispatch.name) for policy in found}
    from moesim.policies import dispatch_names, placement_names

    assert {placement for placement, _ in kinds} == set(placement_names())
    assert {dispatch for _, dispatch in kinds} == set(dispatch_names())
