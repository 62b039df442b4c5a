"""The page about offloading is as fresh as the registry, and names every system, part, setting and figure."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from moesim.policies.misses.base import Choice, MissPolicy, Needed
from moesim.policies.offload.create import OFFLOAD_PRESETS, create_offload
from moesim.policies.offload.page import OFFLOAD_SOURCES, refreshed, systems_table
from moesim.policies.offload.system import OffloadSettings
from moesim.policies.registry import policy_types

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "offloading.md"
REMEDY = "write it anew: python -m moesim.policies.offload.page docs/offloading.md"


def test_the_tables_are_fresh() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert refreshed(text) == text, REMEDY


def test_every_system_part_and_setting_is_told() -> None:
    text = PAGE.read_text(encoding="utf-8")
    names = [*OFFLOAD_PRESETS, *policy_types("misses"), *OffloadSettings.model_fields]
    assert [name for name in names if f"`{name}`" not in text] == []


def test_every_system_has_a_source() -> None:
    assert [name for name in OFFLOAD_PRESETS if name not in OFFLOAD_SOURCES] == []


def test_the_table_says_what_systems_are_made_of() -> None:
    rows = {line.split("|")[1].strip(" `"): line for line in systems_table().splitlines()[2:]}
    for name in OFFLOAD_PRESETS:
        made = create_offload(name)
        for part in (made.cache, made.prefetch, made.misses):
            assert f"`{part.name}`" in rows[name]
        assert (" no |" in rows[name]) == (not made.exact)


def test_every_scenario_that_offloads_is_named() -> None:
    text = PAGE.read_text(encoding="utf-8")
    files = sorted((ROOT / "scenarios").glob("offload-*.yaml"))
    assert [file.name for file in files if f"scenarios/{file.name}" not in text] == []


def test_the_miss_policy_of_the_guide_decides_as_it_says() -> None:
    guide = (ROOT / "docs" / "adding-a-policy.md").read_text(encoding="utf-8")
    (block,) = (part for part in re.findall(r"```python\n(.*?)```", guide, re.DOTALL) if "class Few(" in part)
    found: dict[str, Any] = {"__name__": "guide"}
    exec(compile(block, "adding-a-policy.md", "exec"), found)
    policy = found["Few"](found["FewParameters"](tokens=2))
    assert isinstance(policy, MissPolicy)
    needed = Needed(
        (5, 1, 7), (9, 2, 1), (False, False, True), (), True, lambda tokens: 1.0, lambda tokens: 1.0, 1.0
    )
    assert policy.choose(needed) == Choice((5,), (1,))
