"""Mutated scenarios through the command line: a result or one clear message, never anything else."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from click.testing import CliRunner

from moesim.cli import main

TINY = Path(__file__).parent / "data" / "tiny.yaml"
RUNS, BATCHES = 300, 10

VALUES = (
    "0", "-1", "1", "2", "3", "4", "7", "8", "16", "0.5", "1e400", "-0.0", ".nan", ".inf", "1e30", "9" * 20,
    "", "null", "true", "yes", "''", "[]", "{}", "[1, 2]", "{a: 1}", "*x", "&x 1", "!!python/x y", "[[[[]]]]",
    "5 GB/s", "5 parsecs", "\t", '"\\u0000"', "010", "1:30", "ep", "llep", "zipf", "Mixtral-8x7B", "HGX-H200",
)  # fmt: skip
SIGNS = "{}[]:,-#&*!|>'\"%@`\t\n \\0é\x00\ufeff"


def mutate(text, draw):
    """Change a scenario in one or two places."""
    for _ in range(draw.choice((1, 1, 2))):
        lines = text.split("\n")
        place = draw.randrange(len(lines))
        line = lines[place]
        match draw.randrange(8):
            case 0 | 7 if ":" in line:
                lines[place] = f"{line.split(':', 1)[0]}: {draw.choice(VALUES)}"
            case 1 if ":" in line:
                key, rest = line.split(":", 1)
                cut = draw.randrange(len(key) + 1)
                lines[place] = f"{key[:cut]}{key[cut + 1 :]}:{rest}"
            case 2:
                del lines[place]
            case 3:
                lines.insert(draw.randrange(len(lines)), line)
            case 4:
                lines[place] = draw.choice(("  ", " ", "    ")) + line
            case 5:
                cut = draw.randrange(len(line) + 1)
                lines[place] = line[:cut] + draw.choice(SIGNS) + line[cut:]
            case _:
                cut = draw.randrange(len(line) + 1)
                lines[place] = line[:cut] + line[cut + draw.randint(1, 4) :]
        text = "\n".join(lines)
    return text


@pytest.mark.parametrize("batch", range(BATCHES))
def test_mutated_scenarios_run_or_are_refused(batch, tmp_path):
    draw = random.Random(batch)
    text = TINY.read_text()
    file = tmp_path / "mutated.yaml"
    statuses = []
    for number in range(RUNS // BATCHES):
        file.write_text(mutate(text, draw), encoding="utf-8")
        words = ["simulate", "--no-timing"] if number % 3 else ["compare-policies", "--policies", "ep,llep"]
        result = CliRunner().invoke(main, [*words, str(file), "--set", "workload.steps=1"])
        shown = f"{file.read_text()}\n{result.output}"
        assert result.exit_code in (0, 2), shown
        if result.exit_code == 2:
            assert result.stdout == "", shown
            assert result.stderr.startswith("moesim: "), shown
            assert "Traceback" not in result.stderr, shown
            assert "\x00" not in result.stderr, shown
        else:
            assert "latency" in result.stdout, shown
        statuses.append(result.exit_code)
    assert {0, 2} == set(statuses)
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
