"""Policies are found by name, wrong input is explained, broken plug-ins are named."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from moesim.errors import InputError
from moesim.papers.policy_page import page as policy_page
from moesim.policies import create_dispatch, create_placement, create_policy, describe, policy_presets
from moesim.policies import registry as registry_module
from moesim.policies.parameters import PolicyInputError
from moesim.policies.registry import (
    create_prefetch,
    dispatch_names,
    placement_names,
    policy_types,
    prefetch_names,
)
from moesim.testing import check_placement_policy, make_view

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def plug_in(tmp_path, monkeypatch):
    """Install a package that offers policies: ``plug_in(distribution, entry points, source)``."""

    def forget():
        registry_module._entries.cache_clear()
        registry_module._load.cache_clear()

    def install(distribution: str, points: str, source: str = "") -> None:
        home = tmp_path / distribution
        info = home / f"{distribution}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(points)
        (home / f"{distribution}.py").write_text(source)
        monkeypatch.syspath_prepend(str(home))
        monkeypatch.delitem(sys.modules, distribution, raising=False)
        forget()

    yield install
    monkeypatch.undo()
    forget()


def test_built_in_policies_are_registered():
    assert {"contiguous", "eplb", "eplb_online", "eplb_vec", "flexmoe", "round_robin"} <= set(
        placement_names()
    )
    assert {"exflow", "grace", "greedy", "moetuner", "occult"} <= set(placement_names())
    assert {"capacity", "llep", "lplb", "metro", "standard"} <= set(dispatch_names())
    assert {"capacity", "fastermoe", "harmoeny", "janus", "lina", "llep"} <= set(dispatch_names())
    assert {"lplb", "metro", "prophet", "standard"} <= set(dispatch_names())


@pytest.mark.parametrize("name", policy_presets())
def test_presets_make_policies_that_survive_pickling(name):
    policy = create_policy(name)
    assert policy.name == name
    assert pickle.loads(pickle.dumps(policy)) == policy


def test_a_policy_is_made_from_a_mapping():
    policy = create_policy(
        {
            "name": "my",
            "placement": {"kind": "eplb", "redundant": 32, "mode": "global"},
            "dispatch": {"kind": "llep", "alpha": 1.1, "m": 512, "lambda": 2, "planning_fixed_s": "50 us"},
        }
    )
    assert (policy.name, policy.placement.name, policy.dispatch.name) == ("my", "eplb", "llep")
    assert policy.placement.parameters.redundant == 32
    chosen = policy.dispatch.parameters
    assert (chosen.alpha, chosen.min_tokens_per_gemm, chosen.threshold) == (1.1, 512, 2.0)
    assert chosen.planning_fixed_s == pytest.approx(50e-6)


def test_halves_of_a_mapping_have_defaults():
    policy = create_policy({"placement": "round_robin"})
    assert (policy.name, policy.dispatch.name) == ("round_robin+standard", "standard")


@pytest.mark.parametrize(
    ("given", "words", "key"),
    [
        ({"dispach": "llep"}, "no parameter 'dispach' \\(did you mean 'dispatch'", ("dispach",)),
        ({"dispatch": {"kind": "llep", "alfa": 1}}, "'alfa' \\(did you mean 'alpha'", ("dispatch", "alfa")),
        (
            {"dispatch": {"kind": "llep", "alpha": -1}},
            "'alpha' is -1, .*greater than 0",
            ("dispatch", "alpha"),
        ),
        ({"dispatch": {"kind": "llep", "alpha": float("nan")}}, "'alpha' is nan", ("dispatch", "alpha")),
        ({"dispatch": {"kind": "llep", "m": 1.5}}, "'min_tokens_per_gemm' is 1.5", None),
        (
            {"dispatch": {"kind": "llep", "m": 1, "min_tokens_per_gemm": 2}},
            "the same parameter",
            ("dispatch",),
        ),
        (
            {"dispatch": {"kind": "llep", "planning_fixed_s": "soon"}},
            "expected a quantity such as '5 us'",
            ("dispatch", "planning_fixed_s"),
        ),
        (
            {"placement": {"kind": "eplb", "redundant": True}},
            "'redundant' cannot be true",
            ("placement", "redundant"),
        ),
        (
            {"placement": {"kind": "eplb", "mode": "locale"}},
            "'mode' is 'locale', .*'auto', 'global' or 'hierarchical'",
            ("placement", "mode"),
        ),
        (
            {"placement": {"kind": "contiguous", "slots": 3}},
            "no parameter 'slots' \\(it takes none",
            ("placement", "slots"),
        ),
        ({"placement": {"redundant": 3}}, "placement policy needs a 'kind'", ("placement",)),
        ({"placement": 3}, "'placement' must be the name of a policy or a mapping", ("placement",)),
        ({"name": ""}, "the name of a policy is a text", ("name",)),
    ],
)
def test_wrong_input_is_explained(given, words, key):
    with pytest.raises(PolicyInputError, match=words) as caught:
        create_policy(given)
    assert key is None or caught.value.key == key
    copy = type(caught.value)(*caught.value.args)
    assert (str(copy), copy.key) == (str(caught.value), caught.value.key)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: create_policy("eplbb"), "no policy named 'eplbb' \\(did you mean 'eplb'"),
        (lambda: create_policy(["ep"]), "a policy is the name of a preset or a mapping"),
        (lambda: create_policy({"dispatch": "lep"}), "no dispatch policy named 'lep' .*'llep'"),
        (lambda: create_placement("os:system"), "no placement policy named 'os:system'"),
        (lambda: create_dispatch("moesim.policies.dispatch.standard:Standard"), "no dispatch policy named"),
    ],
)
def test_only_registered_names_can_be_asked_for(make, words):
    with pytest.raises(InputError, match=words):
        make()


GOOD = """
from moesim.policies.placement.blocks import Contiguous
class Mine(Contiguous):
    name = "mine"
    summary = "blocks again"
"""


def test_a_plug_in_is_listed_and_made(plug_in):
    plug_in("acme", "[moesim.placement]\nmine = acme:Mine\n", GOOD)
    assert "mine" in placement_names()
    assert create_placement("mine").summary == "blocks again"
    assert [row.summary for row in describe() if row.name == "mine"] == ["blocks again"]


@pytest.mark.parametrize(
    ("source", "flaw"),
    [
        ("import nothing_of_this_name", "ModuleNotFoundError"),
        ("", "AttributeError"),
        ("raise SystemExit(3)", "SystemExit"),
        ("Mine = 3", "it is not a class"),
        ("class Mine: pass", "it lacks the text 'name'"),
        (GOOD.replace('"mine"', '"other"'), "it calls itself 'other'"),
        (GOOD + "    parameters_type = dict", "not a subclass of moesim.policies.base.Parameters"),
        (GOOD + "    place = None", "it has no method 'place'"),
    ],
)
def test_a_broken_plug_in_is_named_and_leaves_the_others_usable(plug_in, source, flaw):
    plug_in("acme", "[moesim.placement]\nmine = acme:Mine\n", source)
    with pytest.warns(UserWarning, match=f"'mine' \\(acme:Mine, from acme\\) cannot be used: .*{flaw}"):
        usable = policy_types("placement")
    assert sorted([*usable, "mine"]) == placement_names()
    with pytest.raises(InputError, match="'mine'"):
        create_placement("mine")
    assert create_placement("eplb").name == "eplb"


def test_built_in_policies_cannot_be_replaced(plug_in):
    plug_in("acme", "[moesim.dispatch]\nstandard = acme:Mine\n", GOOD)
    with pytest.warns(
        UserWarning, match="two packages register the dispatch policy 'standard': moesim .*acme"
    ):
        assert create_dispatch("standard").summary.startswith("tokens go to")


def test_a_source_tree_that_is_not_installed_says_so(monkeypatch, plug_in):
    plug_in("acme", "", "")
    monkeypatch.setattr(registry_module, "entry_points", lambda group: ())
    with pytest.raises(InputError, match="pip install -e"):
        placement_names()


def test_the_policy_page_is_fresh():
    page = (ROOT / "docs" / "policies.md").read_text(encoding="utf-8")
    assert page == policy_page(), "write it again: python -m moesim.papers.policy_page > docs/policies.md"


def test_the_example_of_the_guide_is_a_policy():
    page = (ROOT / "docs" / "adding-a-policy.md").read_text(encoding="utf-8")
    source = page.split("```python\n")[1].split("```")[0]
    module = ModuleType("snake_of_the_guide")
    sys.modules[module.__name__] = module
    try:
        exec(compile(source, "adding-a-policy.md", "exec"), module.__dict__)
        check_placement_policy(module.Snake())
        check_placement_policy(module.Snake(module.SnakeParameters(reverse=True)))
        placed = module.Snake().place(np.asarray([[1, 9, 5, 7]]), make_view(2, 4))
        assert placed.slots.tolist() == [[[1, 0], [3, 2]]]
    finally:
        del sys.modules[module.__name__]


PREFETCH = """
from moesim.policies.prefetch.base import NoPrefetch
class Mine(NoPrefetch):
    name = "mine"
"""


def test_a_prefetch_plug_in_is_listed_and_made(plug_in):
    plug_in("acme", "[moesim.prefetch]\nmine = acme:Mine\n", PREFETCH)
    assert "mine" in prefetch_names()
    assert create_prefetch("mine").seconds(3) == 0
    with pytest.raises(InputError, match="no parameter 'top'"):
        create_prefetch("mine", {"top": 1})
    with pytest.raises(InputError, match="no prefetch policy named 'gates' \\(did you mean 'gate'"):
        create_prefetch("gates")


@pytest.mark.parametrize(
    ("more", "flaw"),
    [
        ("    given = None", "it does not say whether its accuracy is given"),
        ("    seconds = 3", "it has no method 'seconds'"),
        ("    start = None", "it has no method 'start'"),
    ],
)
def test_a_broken_prefetch_plug_in_is_named(plug_in, more, flaw):
    plug_in("acme", "[moesim.prefetch]\nmine = acme:Mine\n", PREFETCH + more)
    with pytest.raises(InputError, match=flaw):
        create_prefetch("mine")
