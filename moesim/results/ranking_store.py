"""Rankings on disk: the comparison of every run, and what they say together."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from moesim.results.directory import MANIFEST, replacing
from moesim.results.store import finish, head, write_comparison, write_json, write_text

if TYPE_CHECKING:
    from moesim.results.ranking import Ranking


def save_ranking(ranking: Ranking, directory: str | Path, *, timing: bool = True) -> Path:
    """Write a ranking to a directory, whole or not at all.

    One run is stored as a comparison with more files; several have a directory each below ``runs/``.

    Args:
        ranking: what to write.
        directory: a new or empty directory, or an earlier run, which is replaced.
        timing: keep the wall-clock time.

    Raises:
        InputError: the directory holds something else, or cannot be written.
    """
    from moesim.results.plots.style import render
    from moesim.results.report.ranking import ranking_html

    with replacing(directory) as work:
        folders: list[str] = []
        if len(ranking.runs) == 1:
            write_comparison(ranking.comparisons[0], work, timing)
            manifest = json.loads((work / MANIFEST).read_text(encoding="utf-8"))
        else:
            for number, (run, comparison) in enumerate(zip(ranking.runs, ranking.comparisons, strict=True)):
                slug = re.sub(r"[^A-Za-z0-9_-]+", "_", run.label).strip("_")[-48:].lower()
                folders.append(f"runs/{number}-{slug}")
                (work / folders[-1]).mkdir(parents=True)
                write_comparison(comparison, work / folders[-1], timing)
            manifest = head("ranking", ranking.comparisons[0].baseline)
            manifest |= {"baseline": ranking.baseline, "runs": folders}
        (work / "plots").mkdir(exist_ok=True)
        figure = ranking.plot()
        image = render(figure, "svg")
        (work / "plots" / "ranking.svg").write_bytes(image)
        (work / "plots" / "ranking.png").write_bytes(render(figure, "png"))
        write_json(work / "summary.json", ranking.to_dict())
        write_text(work / "explanation.txt", "\n".join(ranking.explain()) + "\n")
        ranking.table.to_csv(work / "ranking.csv", lineterminator="\n")
        if folders:
            write_text(work / "report.html", ranking_html(ranking, image, folders))
        finish(work, manifest)
    return Path(directory)
