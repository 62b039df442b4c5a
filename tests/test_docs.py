"""What the documents say can be followed: links, commands, code and numbers."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path

import click
import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "traces").glob("*.md")])
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def named(paths: list[Path]) -> list[object]:
    return [pytest.param(path, id=str(path.relative_to(ROOT))) for path in paths]


def prose(text: str) -> str:
    return FENCE.sub("", text)


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as forges make them."""
    found = re.findall(r"^#+ +(.*)$", prose(text), re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", head)) for head in found]
    return {head.strip().lower().replace(" ", "-") for head in plain}


def code_blocks(text: str, language: str) -> list[str]:
    return [body for name, body in FENCE.findall(text) if name == language]


@pytest.mark.parametrize("page", named(PAGES))
def test_relative_links_resolve(page: Path) -> None:
    for target in LINK.findall(prose(page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        there = (page.parent / name).resolve() if name else page
        assert there.exists(), f"{page.name} links to {target}"
        if anchor and there.suffix == ".md":
            assert anchor in anchors(there.read_text(encoding="utf-8")), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", named(PAGES))
def test_pages_in_code_spans_exist(page: Path) -> None:
    """`docs/x.md`, `moesim/x/y.py` and the like name files of the repository."""
    text = prose(page.read_text(encoding="utf-8"))
    for name in re.findall(r"`((?:docs|moesim|scenarios|notebooks|benchmarks|tests)/[\w./-]+\.\w+)`", text):
        assert (ROOT / name).exists(), f"{page.name} names {name}"


@pytest.mark.parametrize("page", named(PAGES))
def test_documented_commands_exist(page: Path) -> None:
    from moesim.cli import main

    text = page.read_text(encoding="utf-8")
    lines = [line.strip() for _, body in FENCE.findall(text) for line in body.splitlines()]
    lines += re.findall(r"`(moesim [^`]*)`", text)
    for line in lines:
        words = line.removeprefix("$ ").split("#")[0]
        if words.startswith("moesim "):
            check_command(main, shlex.split(words)[1:], line)


def check_command(group: click.Command, words: list[str], line: str) -> None:
    """Walk down the groups of the command line, then look the options up."""
    while isinstance(group, click.Group) and words and not words[0].startswith("-"):
        name, *words = words
        names = name.split("|")
        assert all(one in group.commands for one in names), f"no command '{name}': {line}"
        group = group.commands[names[0]]
    known = {option for parameter in group.params for option in (*parameter.opts, *parameter.secondary_opts)}
    for word in words:
        if re.match(r"--[a-z]", word):
            assert word.split("=")[0] in known | {"--help", "--version"}, f"no option {word}: {line}"


def test_make_targets_that_are_documented_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        used = re.findall(r"(?:^|`)make ([a-z]+)", text, re.MULTILINE)
        for target in used:
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{page.name}: make {target}"


def test_readme_example_is_short_and_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (block,) = code_blocks((ROOT / "README.md").read_text(encoding="utf-8"), "python")
    assert len([line for line in block.splitlines() if line.strip()]) <= 10
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scenarios").symlink_to(ROOT / "scenarios")
    exec(compile(block, "README.md", "exec"), {})
    shown = capsys.readouterr().out
    assert "llep is" in shown
    assert "straggler" in shown
    assert (tmp_path / "demo-out" / "report.html").is_file()


def test_readme_fits_its_promise() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 100
    assert (ROOT / "docs" / "img" / "demo.png").stat().st_size < 300_000


@pytest.mark.parametrize("page", named(PAGES))
def test_pages_do_not_name_machine_paths(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"(?<![\w.])/(work|root|home|tmp)/", text)


@pytest.mark.slow
def test_published_accuracy_is_what_reproduce_gives() -> None:
    import moesim

    spec = importlib.util.spec_from_file_location("accuracy", ROOT / "docs" / "accuracy.py")
    assert spec is not None
    assert spec.loader is not None
    accuracy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(accuracy)
    for name, text in accuracy.pages(moesim.reproduce()).items():
        assert (ROOT / name).read_text(encoding="utf-8") == text, f"{name}: run python docs/accuracy.py"
