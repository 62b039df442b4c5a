"""A ranking over several runs as one page, which leads to the report of each run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from moesim.results.explain_ranking import explain_standing, seconds, times, what_intervals_are
from moesim.results.report.fragments import escape, inline_svg, table
from moesim.results.report.page import page, section
from moesim.units import format_bytes

if TYPE_CHECKING:
    from moesim.results.ranking import Ranking


def ranking_html(ranking: Ranking, image: bytes, folders: Sequence[str]) -> str:
    """Return the page.

    Args:
        ranking: what it tells.
        image: the chart as SVG.
        folders: where the report of each run is, relative to the page.
    """
    rows = [
        (
            f"{one.rank}. {one.name}",
            seconds(one.latency),
            "baseline" if one.name == ranking.baseline else times(one.speedup),
            format_bytes(one.peak_memory_bytes),
            "fits" if one.fits else "runs out",
        )
        for one in ranking.ranked
    ]
    heads = ("policy", "latency", "speed-up", "peak memory", "memory")
    words = []
    for one in ranking.ranked:
        first, *rest = explain_standing(ranking, one)
        items = "".join(f"<li>{escape(line.strip())}</li>" for line in rest)
        words.append(f"<p><strong>{escape(first)}</strong></p><ul>{items}</ul>")
    unfit = "".join(f"<li>{escape(one.name)}: {escape(one.reason)}</li>" for one in ranking.unfit)
    links = "".join(
        f'<li><a href="{escape(folder)}/report.html">{escape(run.label)}</a></li>'
        for run, folder in zip(ranking.runs, folders, strict=True)
    )
    body = [
        section("Policies", table(heads, rows) + f"<p>{escape(what_intervals_are(ranking))}</p>"),
        section("Ranking", f"<figure>{inline_svg(image, 'ranking', 'Policies by latency')}</figure>"),
        section("Why", "".join(words)),
        *([section("Do not fit", f"<ul>{unfit}</ul>")] if unfit else []),
        section("Runs", f"<ul>{links}</ul>"),
    ]
    heading = f"{escape(ranking.name)}: {len(ranking.standings)} policies ranked"
    return page(ranking.comparisons[0].baseline, heading, f"{len(ranking.runs)} runs", body)
