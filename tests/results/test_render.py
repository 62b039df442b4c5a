from __future__ import annotations

import io

import pytest
from rich.console import Console

from moesim.results.render import render_comparison, render_result


def printed(renderable, width: int = 100, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding=encoding, newline="\n")
    Console(file=out, width=width).print(renderable)
    out.flush()
    return raw.getvalue().decode(encoding)


def test_a_run_tells_its_figures_causes_and_fullest_device(make_result):
    text = printed(render_result(make_result()))
    for part in (
        "policy ep, seed 7",
        "p99",
        "lower bound",
        "tokens/s",
        "expert compute",
        "waiting",
        "fits in memory",
    ):
        assert part in text
    assert "simulated in" not in text


def test_wall_clock_is_told_only_when_asked_for(make_result, make_comparison):
    assert "in 250 ms" in printed(render_result(make_result(), timing=True))
    assert "in 750 ms" in printed(render_comparison(make_comparison(), timing=True))
    assert "750 ms" not in printed(render_comparison(make_comparison()))


def test_a_comparison_fits_100_columns_with_every_policy_on_one_row(make_comparison):
    text = printed(render_comparison(make_comparison(capacity=60 * 2**30, devices=200)))
    lines = text.splitlines()
    assert max(len(line) for line in lines) <= 100
    for policy in ("ep (baseline)", "eplb", "llep"):
        rows = [
            line for line in lines if line.startswith(f"{policy} ") and "GiB" in line and "run out" in line
        ]
        assert len(rows) == 1


def test_a_comparison_says_why(make_comparison):
    text = printed(render_comparison(make_comparison()))
    assert "waiting shrank by" in text
    assert "memory: peak" in text


def test_running_out_of_memory_is_said_in_words(make_result):
    text = " ".join(printed(render_result(make_result(capacity=60 * 2**30))).split())
    assert "out of memory: device" in text
    assert "of 60 GiB in step 1, layer 4, stage experts, holding experts 42 GiB" in text


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_plain_terminal_gets_plain_signs(make_result, make_comparison, encoding):
    assert "####" in printed(render_result(make_result()), encoding=encoding)
    assert "eplb" in printed(render_comparison(make_comparison()), encoding=encoding)


def test_names_with_markup_are_printed_as_they_are(make_tables):
    from moesim.results import Result

    result = Result.from_tables(make_tables(1.0), name="[red]toy[/red]", policy="[bold]ep")
    text = printed(render_result(result))
    assert "[red]toy[/red]" in text
    assert "[bold]ep" in text
