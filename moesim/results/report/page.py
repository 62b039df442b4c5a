"""The page: figures, words, charts, tables and the scenario, with no script and nothing to download."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from string import Template

import yaml

from moesim.results.comparison import Comparison
from moesim.results.explain import explain_one, out_of_memory_line
from moesim.results.metrics import plain
from moesim.results.plots.gallery import TITLES, comparison_plots, result_plots
from moesim.results.plots.style import render
from moesim.results.report.fragments import (
    cause_table,
    escape,
    figures_of,
    inline_svg,
    policy_table,
    serving_list,
    serving_table,
)
from moesim.results.result import Result
from moesim.units import format_time

_PAGE = Template(
    """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
$style</style>
</head>
<body>
<header><h1>$heading</h1><p>$about</p></header>
<main>
$body
</main>
<footer>moesim $version, seed $seed</footer>
</body>
</html>
"""
)


def section(title: str, inner: str) -> str:
    """Return a part of a page under a heading."""
    return f"<section><h2>{escape(title)}</h2>\n{inner}\n</section>"


def _cards(result: Result) -> str:
    cards = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(text)}</dd></div>" for name, text in figures_of(result)
    )
    return f'<dl class="cards">{cards}</dl>'


def _charts(plots: Mapping[str, bytes]) -> list[str]:
    """Return the charts one below the other; the overview would only repeat them."""
    return [
        section(TITLES.get(name, name), f"<figure>{inline_svg(image, name, TITLES.get(name, name))}</figure>")
        for name, image in plots.items()
        if name != "overview"
    ]


def _words(comparison: Comparison) -> str:
    base = comparison.baseline
    blocks = [
        f"<p><strong>{escape(base.policy)}</strong> is the baseline: "
        f"{format_time(base.latency_s['mean'])} per step, of which {100 * base.bound_fraction:.0f} % is the "
        "lower bound.</p>"
    ]
    for result in comparison.others:
        first, *rest = explain_one(comparison, result)
        items = "".join(f"<li>{escape(line.strip())}</li>" for line in rest)
        blocks.append(f"<p><strong>{escape(first)}</strong></p><ul>{items}</ul>")
    return "".join(blocks)


def _alarm(results: tuple[Result, ...]) -> list[str]:
    lines = [
        f'<p class="alarm"><strong>{escape(result.policy)} runs out of memory:</strong> '
        f"{escape(out_of_memory_line(result.out_of_memory))}</p>"
        for result in results
        if result.out_of_memory
    ]
    return ["".join(lines)] if lines else []


def _serving(inner: str) -> list[str]:
    return [section("Requests and caches of experts", inner)] if inner else []


def _notes(results: tuple[Result, ...]) -> list[str]:
    said = dict.fromkeys(note for result in results for note in result.notes)
    items = "".join(f"<li>{escape(note)}</li>" for note in said)
    return [section("Notes on prices", f"<ul>{items}</ul>")] if said else []


def _scenario(result: Result) -> str:
    text = yaml.safe_dump(plain(result.scenario), sort_keys=False, allow_unicode=True, width=100)
    return f"<details><summary>Resolved scenario</summary><pre>{escape(text)}</pre></details>"


def report_html(run: Result | Comparison, plots: Mapping[str, bytes] | None = None) -> str:
    """Return a run as one HTML page that needs nothing else.

    Args:
        run: a result or a comparison.
        plots: its charts as SVG by name, where they are rendered already.
    """
    if isinstance(run, Comparison):
        results, first = run.results, run.baseline
        figures = comparison_plots(run) if plots is None else {}
        heading = f"{escape(run.name)}: {len(results)} policies compared"
        top = [
            section("Policies", policy_table(run)),
            *_alarm(results),
            *_serving(serving_table(results, run.baseline.policy)),
            section("Why", _words(run)),
        ]
    else:
        results, first = (run,), run
        figures = result_plots(run) if plots is None else {}
        heading = f"{escape(run.name)}: {escape(run.policy)}"
        top = [section("Figures", _cards(run)), *_alarm(results), *_serving(serving_list(run))]
    images = {name: render(figure, "svg") for name, figure in figures.items()} if plots is None else plots
    steps, devices = len(first.steps), first.memory["device"].nunique()
    about = f"{steps} step{'s' if steps != 1 else ''} on {devices} device{'s' if devices != 1 else ''}"
    body = [
        *top,
        *_charts(images),
        section("Time by cause", cause_table(results)),
        *_notes(results),
        section("Scenario", _scenario(first)),
    ]
    return page(first, heading, about, body)


def page(first: Result, heading: str, about: str, body: Sequence[str]) -> str:
    """Return a whole page.

    Args:
        first: a result that tells version and seed.
        heading: its heading, as HTML.
        about: a line below it.
        body: its sections.
    """
    return _PAGE.substitute(
        title=f"moesim: {heading}",
        style=files(__package__).joinpath("report.css").read_text(encoding="utf-8"),
        heading=heading,
        about=about,
        body="\n".join(body),
        version=escape(first.version),
        seed=first.seed,
    )
