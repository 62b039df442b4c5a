"""Values replaced from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from moesim.errors import InputError
from moesim.scenario import loads_scenario

SCENARIO = """\
model: gpt-oss-20b
cluster: {name: HGX-H200, nodes: 2}
routing: {trace: traces/one, profile: 0.5}
workload: {tokens_per_device: [1, 2], steps: 3}
policies:
  - ep
  - eplb
  - {name: mine, placement: eplb, dispatch: {kind: llep, alpha: 1.5}}
"""


def value(path: str, *overrides: str, text: str = SCENARIO) -> Any:
    found = loads_scenario(text, overrides=overrides).resolved()
    for part in path.split("."):
        found = found[int(part) if part.isdigit() else part]
    return found


@pytest.mark.parametrize(
    ("path", "override", "expected"),
    [
        ("workload.steps", "workload.steps=8", 8),
        ("workload.steps", "  workload . steps =8", 8),
        ("workload.tokens_per_device", "workload.tokens_per_device=16k", 16_000),
        ("workload.tokens_per_device", "workload.tokens_per_device.1=7", [1, 7]),
        ("workload", "workload={tokens_per_device: 1, steps: 1}", None),
        ("engine.spans", "engine.spans=0", 0),
        ("memory.reserve", "memory.reserve=2 GiB", 2 << 30),
        ("cluster.nodes", "cluster.nodes=4", 4),
        ("cluster.name", "cluster=DGX-H100", "DGX-H100"),
        ("model.layers", "model.layers=6", 6),
        ("model.name", "model.layers=6", "gpt-oss-20b"),
        ("description", "description=a = b", "a = b"),
        ("policies.1.placement.redundant", "policies.1.placement.redundant=8", 8),
        ("policies.1.placement.redundant", "policies.eplb.placement.redundant=8", 8),
        ("policies.2.dispatch.alpha", "policies.mine.dispatch.alpha=1.1", 1.1),
        ("policies.2.placement.redundant", "policies.mine.placement.redundant=8", 8),
        ("policies.2.dispatch.kind", "policies.mine.dispatch.kind=standard", "standard"),
        ("policies.0.name", "policies=[llep]", "llep"),
        ("kernels.base", "kernels=eager", "eager"),
        ("kernels.layer_ops", "kernels.layer_ops=3", 3),
        ("routing.generator", "routing.generator=uniform", "uniform"),
    ],
)
def test_a_value_is_replaced(path: str, override: str, expected: Any) -> None:
    found = value(path, override)
    assert expected is None or found == expected


def test_later_overrides_win_and_build_on_earlier_ones() -> None:
    assert value("workload.steps", "workload.steps=8", "workload.steps=9") == 9
    routing = value("routing", "routing.generator=zipf", "routing.exponent=0.5")
    assert routing == {"generator": "zipf", "exponent": 0.5}


def test_another_kind_forgets_the_parameters_of_the_old_one() -> None:
    assert "alpha" not in value("policies.2.dispatch", "policies.mine.dispatch.kind=standard")


def test_a_trace_counts_from_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    loaded = loads_scenario(SCENARIO, tmp_path / "scenarios", ["routing.trace=here"])
    assert loaded.resolved()["routing"]["trace"] == "../here"
    kept = loads_scenario(SCENARIO, tmp_path / "scenarios", [f"routing.trace={tmp_path / 'there'}"])
    assert kept.resolved()["routing"]["trace"] == str(tmp_path / "there")


@pytest.mark.parametrize(
    ("override", "fragment"),
    [
        ("workload.steps", "must be written as dotted.key=value"),
        ("=8", "must be written as dotted.key=value"),
        ("workload..steps=8", "must be written as dotted.key=value"),
        ("extends=other.yaml", "'extends' can only stand in a file"),
        ("workload.stps=8", "'workload' has no key 'stps' (did you mean 'steps'?)"),
        ("wrkload.steps=8", "a scenario has no key 'wrkload' (did you mean 'workload'?)"),
        ("workload.steps=0", "'workload.steps' must be a whole number from 1"),
        ("workload.steps=[1", "not valid YAML"),
        ("workload.steps=.inf", "finite number"),
        ("workload.steps.more=8", "'workload.steps' is a single value and has no 'more'"),
        ("policies.9=ep", "the list has no item '9': count from 0 to 2"),
        ("policies.epbl.dispatch=llep", "did you mean 'eplb'?"),
        ("policies.-1=ep", "the list has no item '-1'"),
        ("policies.eplb.placement.redundent=8", "no parameter 'redundent' (did you mean 'redundant'?)"),
        ("a.b.c.d.e=1", "no key 'a'"),
    ],
)
def test_errors_name_the_override(override: str, fragment: str) -> None:
    with pytest.raises(InputError) as caught:
        loads_scenario(SCENARIO, overrides=[override]).resolved()
    assert str(caught.value).startswith(f"--set {override}: ")
    assert fragment in str(caught.value)


def test_long_overrides_are_shown_short() -> None:
    with pytest.raises(InputError) as caught:
        loads_scenario(SCENARIO, overrides=[f"workload.steps={'9' * 500}"])
    assert len(str(caught.value)) < 300
