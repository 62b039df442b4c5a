"""The examples of docs/cli.md: every one runs, with the exit status that the page promises."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from moesim.cli import main

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```console(?: exit=(\d+))?\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)
EXAMPLES = [
    pytest.param(
        words := shlex.split(line[2:]),
        int(status or 0),
        marks=[pytest.mark.slow] if words[1:3] == ["trace", "record"] else [],
    )
    for status, text in BLOCKS
    for line in text.splitlines()
    if line.startswith("$ ")
]

SILENT = tuple(["trace", name] for name in ("generate", "import", "export", "record"))
"""Commands that only write a file."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Hold what the page's examples read: they run in order, in one directory."""
    here = tmp_path_factory.mktemp("examples")
    (here / "scenarios").symlink_to(ROOT / "scenarios")
    (here / "traces").symlink_to(ROOT / "traces")
    (here / "loads.csv").write_text("300,20,40,40\n")
    (here / "ids.json").write_text('{"experts": 4, "tokens": [[[0, 1]], [[3, 2]]]}\n')
    (here / "broken.yaml").write_text(
        "model: gpt-oss-20b\ncluster: HGX-H20O\nrouting: {generator: uniform}\n"
        "workload: {steps: 1, tokens_per_device: 64}\npolicies: [ep]\n"
    )
    return here


@pytest.mark.xdist_group("examples")
@pytest.mark.parametrize(
    ("words", "status"),
    EXAMPLES,
    ids=lambda part: "_".join(part[1:4]) if isinstance(part, list) else str(part),
)
def test_examples_end_as_the_page_says(folder, monkeypatch, words, status):
    if words[1:3] == ["trace", "record"] and importlib.util.find_spec("torch") is None:
        pytest.skip("recording needs torch")
    monkeypatch.chdir(folder)
    assert words[0] == "moesim"
    result = CliRunner().invoke(main, words[1:])
    assert result.exit_code == status, result.output
    assert bool(result.stdout) == (status == 0 and words[1:3] not in SILENT)


def commands(group, path=()):
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name)


def test_every_command_has_an_example_and_every_option_a_help():
    shown = [
        tuple(word for word in words[1:] if not word.startswith("-"))
        for words, _ in (example.values for example in EXAMPLES)
    ]
    for path in commands(main):
        assert any(words[: len(path)] == path for words in shown), path
        command = main
        for name in path:
            command = command.commands[name]
        for option in command.params:
            assert isinstance(option, click.Argument) or option.help, (path, option.name)


@pytest.mark.parametrize("path", [(), *commands(main), ("list",), ("trace",)], ids=" ".join)
def test_help_is_short_and_whole(path):
    result = CliRunner().invoke(main, [*path, "--help"])
    assert result.exit_code == 0
    assert result.stdout.startswith("Usage: moesim")
    assert "..." not in result.stdout.replace("[ARGS]...", ""), "a summary is cut off"
    assert " RANGE" not in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 100
