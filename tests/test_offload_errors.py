"""What a user gets to read when an offloading scenario cannot run: one line, with the place, exit 2."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from offload_runs import described

from moesim.cli import main

Mapping = dict[str, Any]
TWO = {"devices_per_node": 2, "intra": {"bandwidth": 1e10}}
UNIFIED = {"host": {"memory": "unified", "bandwidth": None, "efficiency": None, "link": None}}


def merged(base: Mapping, changes: Mapping) -> Mapping:
    """Merge mappings; None takes a key away."""
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            merged(base[key], value)
        elif value is None:
            base.pop(key, None)
        else:
            base[key] = value
    return base


def asked(folder: Path, changes: Mapping, command: str = "simulate", *arguments: str) -> tuple[int, str]:
    """Write a scenario, run a command on it, and return its exit code and all that it said."""
    description = merged(json.loads(json.dumps(described({"slots": 3}))), changes)
    path = folder / "s.yaml"
    path.write_text(yaml.safe_dump(description), encoding="utf-8")
    done = CliRunner().invoke(main, [command, str(path), *arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output.replace(str(folder), "")


def having(**offload: Any) -> Mapping:
    return {"policies": [{"name": "a", "offload": offload}]}


CASES: list[tuple[Mapping, str, str]] = [
    (having(slots=1), "smaller than top-2", "slots: 1"),
    (having(slots=1, cache="adapmoe"), "smaller than top-2", "slots: 1"),
    (having(slots=1, cache="expertflow"), "smaller than top-2", "slots: 1"),
    (having(ratio=0.1), "smaller than top-2", "ratio: 0.1"),
    (having(memory=1000), "smaller than top-2", "memory: 1000"),
    ({"cluster": {"host": {"memory": 1000}}}, r"take 1.5 MiB, the host memory has 1000 B", "slots"),
    ({"cluster": {"host": None}}, "describes no 'host'", "slots"),
    (having(store="storage"), "describes no 'storage'", "store"),
    ({"cluster": UNIFIED} | having(slots=3, store="host"), "memory: it is unified", "slots"),
    ({"cluster": UNIFIED}, "describes no 'storage'", "slots"),
    (having(system="hobit"), "did you mean 'hobbit'", "system: hobit"),
    ({"policies": ["hobit"]}, "did you mean 'hobbit'", "- hobit"),
    (having(cache="lrru"), "did you mean 'lru'", "cache: lrru"),
    (having(prefetch="gatee"), "did you mean 'gate'", "prefetch: gatee"),
    (having(misses="lod"), "did you mean 'load'", "misses: lod"),
    (having(cache={"kind": "mrs", "alfa": 1}), "did you mean 'alpha'", "alfa: 1"),
    (having(cache={"kind": "mrs", "alpha": 7}), "less than or equal to 1", "alpha: 7"),
    (having(cache={"kind": "mrs", "p": 7}), "p is 7, but the trace holds 2", "p: 7"),
    (having(slotz=3), "did you mean 'slots'", "slotz: 3"),
    (having(slots=3, ratio=0.5), "given once, not by slots and ratio", "ratio: 0.5"),
    (having(whole_layers=2), "needs a shared cache", "whole_layers: 2"),
    (having(slots=0), "whole number from 1", "slots: 0"),
    (having(slots=3, cache="static", prefetch="gate"), "never changes, so prefetch 'gate'", "cache: static"),
    (having(slots=3, prefetch={"kind": "oneshot", "by_layer": [1, 1]}), "expected 4", "prefetch"),
    (having(slots=3, cache={"kind": "hobbit", "low_share": 0.9}), "high-precision part of a cache", "kind"),
    (
        {"policies": ["ep"], "workload": {"requests": {"count": 1, "prompt": 3, "output": 2}}},
        "keeps all experts on the devices",
        "requests",
    ),
    ({"overlap": "two_batch"}, "overlap is 'two_batch'.*set overlap: none", "slots"),
    ({"cluster": TWO, "parallelism": {"expert_tp": 2}}, "not with tensor parallelism", "slots"),
    ({"cluster": TWO, "parallelism": {"attention_tp": 2}}, "not with tensor parallelism", "slots"),
    ({"cluster": TWO, "workload": {"tokens_per_device": [1, 2]}}, "as many sequences", "tokens_per_device"),
    ({"workload": {"tokens_per_device": 0}}, "at least one", "tokens_per_device: 0"),
    (
        {"routing": {"generator": "counts", "counts": [1] * 8}},
        "not the experts of single tokens",
        "- 1",
    ),
    (
        {"policies": [{"name": "a", "refresh": {"every": 1}, "offload": {"slots": 3}}]},
        "leave out refresh",
        "offload",
    ),
]


@pytest.mark.parametrize(("changes", "expected", "at"), CASES, ids=[case[1][:30] for case in CASES])
def test_what_cannot_run_is_said_in_one_line(
    tmp_path: Path, changes: Mapping, expected: str, at: str
) -> None:
    code, told = asked(tmp_path, changes)
    assert code == 2, told
    assert len(told.strip().splitlines()) == 1, told
    assert re.search(expected, told), told
    place = re.search(r"s\.yaml:(\d+):(\d+): ", told)
    assert place, told
    lines = (tmp_path / "s.yaml").read_text(encoding="utf-8").splitlines()
    line = int(place[1])
    # The place is the key itself, or the section that it stands in.
    assert any(at.split(":")[0].strip("- ") in text for text in lines[line - 2 : line + 7]), (
        told,
        lines[line - 1],
    )


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("hobbit(slots=3, t3=0.5)", r"character 17: .*no parameter 't3' \(did you mean 't2'"),
        ("on_demand(cache=lrru)", r"character 11: .*did you mean 'lru'"),
        ("on_demand(slots=1)", "smaller than top-2"),
        ("on_demandd", "did you mean 'on_demand'"),
        ("on_demand(slots=3, ratio=0.5)", "given once"),
    ],
)
def test_policies_on_one_line_are_refused_in_one_line(tmp_path: Path, policy: str, expected: str) -> None:
    code, told = asked(tmp_path, {}, "simulate", "--policy", policy)
    assert code == 2, told
    assert len(told.strip().splitlines()) == 1, told
    assert re.search(expected, told), told


@pytest.mark.parametrize(
    "policy", ["hobbit(slots=4, t1=0.5)", "on_demand(slots=3, cache=lfu)", "fiddler(slots=3)", "resident"]
)
def test_policies_on_one_line_run(tmp_path: Path, policy: str) -> None:
    code, told = asked(tmp_path, {}, "simulate", "--policy", policy, "--json", "--no-timing")
    assert code == 0, told
    assert json.loads(told)["offload"]["tpot_s"] > 0
