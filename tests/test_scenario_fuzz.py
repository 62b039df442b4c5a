"""Whatever is done to a scenario file, it gives a scenario or one clear error."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from moesim.errors import InputError
from moesim.scenario import Scenario, build, load_scenario, loads_scenario

ROOT = Path(__file__).resolve().parents[1]
SCENARIOS = sorted((ROOT / "scenarios").glob("*.yaml"))

WHOLE = """\
name: whole
description: every key there is
model: {name: gpt-oss-20b, layers: 4, weight_dtype: bf16}
cluster:
  name: HGX-H200
  nodes: 2
parallelism:
  ep: 8
routing:
  generator: zipf
  exponent: 0.5
  profile_tokens: 1000
workload:
  phase: decode
  steps: 3
  tokens_per_device: [1, 2, 3, 4, 5, 6, 7, 8]
  context: 4Ki
  moe_only: false
policies:
  - ep
  - name: eplb
    placement: {kind: eplb, redundant: 8, mode: global}
    dispatch: {kind: llep, alpha: 1.1, planning_fixed_s: 5 us}
kernels:
  base: eager
  layer_ops: 30
memory:
  replicated_experts: false
  other_inputs: true
  reserve: 2 GiB
engine:
  detail: array
  spans: 1
seed: 3
"""

VALUES = """
-1 0 1 2.5 1e9 1e400 -1e-9 .nan .inf 999999999999 99999999999999999999999 0x7fffffffffffffff 010 1:30
true yes ~ '' [] {} [1] {a:} [[]] x 16k 64Ki 2GiB 2GB/s -5us 1_000 eplb llep fp8 bf16 spam *a &a !!int
!x ! @ ` % | > ? - , } ] " ' # ${HOME} os:system ../../etc/passwd /dev/null . name kind é 😀
""".split()  # noqa: SIM905
WORDS = (
    "name",
    "nmae",
    "kind",
    "steps",
    "layers",
    "experts",
    "top_k",
    "generator",
    "trace",
    "extends",
    "ep",
    "<<",
    "1",
)

Mutation = Callable[[random.Random, str], str]


def lines_changed(change: Callable[[random.Random, list[str], int], None]) -> Mutation:
    def mutate(draw: random.Random, text: str) -> str:
        lines = text.splitlines()
        if lines:
            change(draw, lines, draw.randrange(len(lines)))
        return "\n".join(lines) + "\n"

    return mutate


def part_replaced(pattern: str, options: tuple[str, ...] | list[str]) -> Mutation:
    def mutate(draw: random.Random, text: str) -> str:
        found = list(re.finditer(pattern, text))
        if not found:
            return text
        start, end = draw.choice(found).span(1)
        return text[:start] + draw.choice(options) + text[end:]

    return mutate


def misspelt(draw: random.Random, text: str) -> str:
    found = list(re.finditer(r"[A-Za-z_]{2,}", text))
    if not found:
        return text
    place = draw.choice(found).start() + draw.randrange(2)
    return text[:place] + draw.choice(["", "x", "_", text[place] * 2]) + text[place + 1 :]


def junk(draw: random.Random, text: str) -> str:
    place = draw.randrange(len(text) + 1)
    chars = [
        chr(draw.choice([draw.randrange(256), draw.randrange(0x3000), draw.randrange(0x10FFFF)]))
        for _ in range(3)
    ]
    return text[:place] + "".join(chars) + text[place:]


def cut(draw: random.Random, text: str) -> str:
    return text[: draw.randrange(len(text) + 1)]


def deeper(draw: random.Random, text: str) -> str:
    place = draw.randrange(len(text) + 1)
    return text[:place] + draw.choice(["[", "{a: ", "- ", "? "]) * draw.choice([1, 70, 2000]) + text[place:]


MUTATIONS: tuple[Mutation, ...] = (
    lines_changed(lambda draw, lines, i: lines.pop(i) and None),
    lines_changed(lambda draw, lines, i: lines.insert(draw.randrange(len(lines) + 1), lines[i])),
    lines_changed(
        lambda draw, lines, i: lines.__setitem__(i, draw.choice(["  ", " ", "\t", "- "]) + lines[i])
    ),
    lines_changed(lambda draw, lines, i: lines.__setitem__(i, lines[i].strip())),
    lines_changed(lambda draw, lines, i: draw.shuffle(lines)),
    part_replaced(r": *([^\s{\[,}\]][^,}\]\n#]*)", VALUES),
    part_replaced(r": *([^\s{\[,}\]][^,}\]\n#]*)", VALUES),
    part_replaced(r"(?<=[:\[,] )([^,}\]\n]+)", VALUES),
    part_replaced(r"([A-Za-z_]+):", WORDS),
    part_replaced(r"(\n)", ["", "\n- ", "\n  ", ": ", "\r", "\n---\n", "\n...\n"]),
    misspelt,
    junk,
    cut,
    deeper,
)


def mutated(seed: int) -> str:
    draw = random.Random(seed)
    sources = [WHOLE, WHOLE, *(path.read_text(encoding="utf-8") for path in SCENARIOS)]
    text = draw.choice(sources)
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        text = draw.choice(MUTATIONS)(draw, text)
    return text


def outcome(make: Callable[[], Scenario], *, built: bool) -> str:
    """Return ``good`` or the error's text; any other exception fails the test."""
    try:
        scenario = make()
        scenario.resolved()
        if built:
            for policy in build.build_policies(scenario):
                build.build_setup(scenario, policy)
    except InputError as error:
        return str(error) if error.file else f"without a place: {error}"
    return "good"


def check(seeds: range, *, built: bool) -> None:
    ends = [
        outcome(lambda seed=seed: loads_scenario(mutated(seed), ROOT / "scenarios"), built=built)
        for seed in seeds
    ]
    refused = [end for end in ends if end != "good"]
    assert len(refused) > len(ends) / 2
    assert len(set(refused)) > len(refused) / 4
    assert [end for end in refused if end.startswith("without a place")] == []
    assert [end for end in refused if len(end) > 6000] == []


def test_mutated_scenarios_give_a_scenario_or_an_error() -> None:
    check(range(2000), built=False)


def test_mutated_scenarios_build_or_give_an_error() -> None:
    check(range(10_000, 10_400), built=True)


@pytest.mark.slow
def test_many_more_mutated_scenarios() -> None:
    check(range(100_000, 108_000), built=True)


def test_files_of_random_bytes_give_an_error(tmp_path: Path) -> None:
    path = tmp_path / "junk.yaml"
    draw = random.Random(7)
    for _ in range(300):
        raw = bytearray(WHOLE.encode())
        for _ in range(draw.choice([1, 5, 50])):
            raw[draw.randrange(len(raw))] = draw.randrange(256)
        path.write_bytes(bytes(raw))
        outcome(lambda: load_scenario(path), built=False)
        path.write_bytes(draw.randbytes(draw.randrange(200)))
        assert outcome(lambda: load_scenario(path), built=False).startswith(str(path))


def test_mutated_overrides_give_a_scenario_or_an_error() -> None:
    draw = random.Random(11)
    keys = [
        "policies",
        "eplb",
        "0",
        "1",
        "placement",
        "dispatch",
        "workload",
        "routing",
        *WORDS,
        "",
        "-1",
        "9" * 30,
    ]
    ends = []
    for _ in range(1500):
        override = ".".join(draw.choices(keys, k=draw.randrange(1, 5))) + draw.choice(["=", "=", "=", " "])
        override += draw.choice(VALUES)
        ends.append(outcome(lambda text=override: loads_scenario(WHOLE, overrides=[text]), built=False))
    assert "good" in ends
    assert len({end for end in ends if end != "good"}) > 200
