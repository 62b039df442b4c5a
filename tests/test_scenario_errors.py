"""What is wrong with a scenario is said in its own lines, all at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from moesim.errors import InputError
from moesim.scenario import load_scenario, loads_scenario

GOOD = {
    "model": "gpt-oss-20b",
    "cluster": "HGX-H200",
    "routing": "{generator: uniform}",
    "workload": "{tokens_per_device: 1024}",
}


def scenario(**changes: str | None) -> str:
    keys = GOOD | changes
    return "".join(f"{key}: {value}\n" for key, value in keys.items() if value is not None)


@pytest.mark.parametrize(
    ("text", "line", "column", "fragments"),
    [
        (scenario(modle="x", model=None), 4, 1, ["a scenario has no key 'modle'", "did you mean 'model'?"]),
        (scenario(model=None), 1, 1, ["the scenario needs the key 'model'"]),
        (scenario(model="{nam: x}"), 1, 9, ["'model' has no key 'nam'", "'name'"]),
        (scenario(model="{config: x.json, layer: 3}"), 1, 25, ["no key 'layer'", "'layers'"]),
        (scenario(model="[1]"), 1, 8, ["'model' must be the name of a model"]),
        (scenario(model="''"), 1, 8, ["at least 1 characters"]),
        (
            scenario(cluster="{name: x, nodes: 0}"),
            2,
            27,
            ["'cluster.nodes' must be a whole number from 1 to"],
        ),
        (scenario(cluster="{name: x, nodes: 1e30}"), 2, 27, ["whole number from 1 to 65536"]),
        (scenario(routing="{profile: 0.5}"), 3, 10, ["either 'trace' or 'generator'"]),
        (scenario(routing="{trace: x, generator: y}"), 3, 10, ["either 'trace' or 'generator'"]),
        (
            scenario(routing="{trace: x, profile: 1.5}"),
            3,
            30,
            ["'routing.profile' must be at most 1, got 1.5"],
        ),
        (scenario(routing="{trace: x, profile: '0.5'}"), 3, 30, ["must be a number, got '0.5'"]),
        (
            scenario(routing="{trace: x, layers: cycl}"),
            3,
            29,
            ["'exact' or 'cycle'", "did you mean 'cycle'?"],
        ),
        (scenario(routing='{trace: "a\\0b"}'), 3, 18, ["one line of text"]),
        (scenario(workload="{}"), 4, 1, ["'workload' needs the key 'tokens_per_device'"]),
        (scenario(workload="{tokens_per_device: -1}"), 4, 31, ["from 0 to 10000000", "got -1"]),
        (scenario(workload="{tokens_per_device: 1.5}"), 4, 31, ["whole number", "got 1.5"]),
        (scenario(workload="{tokens_per_device: .nan}"), 4, 31, ["finite number"]),
        (scenario(workload="{tokens_per_device: 16 GB}"), 4, 31, ["got '16 GB'"]),
        (scenario(workload="{tokens_per_device: [1, 1e9]}"), 4, 35, ["tokens_per_device[1]"]),
        (scenario(workload="{tokens_per_device: []}"), 4, 31, ["at least 1 items"]),
        (scenario(workload="{tokens_per_device: 1, moe_only: yes}"), 4, 44, ["true or false, got 'yes'"]),
        (scenario(policies="[]"), 5, 11, ["at least 1 items"]),
        (scenario(policies="[ep, ep]"), 5, 16, ["two policies are named 'ep'"]),
        (scenario(policies="[3]"), 5, 12, ["'policies[0]' must be the name of a policy"]),
        (scenario(policies="[{name: x, placment: eplb}]"), 5, 22, ["no key 'placment'", "'placement'"]),
        (
            scenario(policies="[{name: x, placement: {kind: 3}}]"),
            5,
            40,
            ["placement.kind' must be text, got 3"],
        ),
        (scenario(memory="{reserve: 3 GHz}"), 5, 19, ["whole bytes", "'2 GiB'"]),
        (scenario(engine="{detail: event}"), 5, 18, ["'array' or 'events'", "did you mean 'events'?"]),
        (scenario(seed="2.5"), 5, 7, ["'seed' must be a whole number"]),
        ("[1, 2]", 1, 1, ["a scenario must be a mapping", "got a list"]),
        ("", 1, 1, ["a scenario must be a mapping", "got nothing"]),
    ],
)
def test_errors_point_at_the_place_and_say_what_fits(
    text: str, line: int, column: int, fragments: list[str]
) -> None:
    with pytest.raises(InputError) as caught:
        loads_scenario(text, file="s.yaml")
    shown = str(caught.value)
    assert shown.startswith(f"s.yaml:{line}:{column}: ")
    assert [part for part in fragments if part not in shown] == []
    assert "<" not in shown


def test_several_errors_are_reported_at_once_in_file_order() -> None:
    text = scenario(model="{nme: x}", workload="{tokens_per_device: -1, phase: prefil}", seed="-1")
    with pytest.raises(InputError) as caught:
        loads_scenario(text, file="s.yaml")
    lines = str(caught.value).splitlines()
    assert [line.split(":")[1] for line in lines] == ["1", "4", "4", "5"]
    assert "did you mean 'name'" in lines[0]
    assert "did you mean 'prefill'" in lines[2]


def test_a_flood_of_errors_is_cut_short() -> None:
    with pytest.raises(InputError, match="and 23 more") as caught:
        loads_scenario(scenario(policies=f"[{', '.join(['3'] * 31)}]"))
    assert len(str(caught.value).splitlines()) == 9


def test_a_scenario_cannot_name_code(tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')")
    for name in ("evil:Policy", "evil.Policy", "os:system"):
        loaded = loads_scenario(scenario(policies=f"[{{name: x, dispatch: '{name}'}}]"), tmp_path)
        with pytest.raises(InputError, match=f"no dispatch policy named '{name}'"):
            loaded.resolved()


def test_a_file_that_is_not_there_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read the file"):
        load_scenario(tmp_path / "absent.yaml")
