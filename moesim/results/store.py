"""Runs on disk: everything needed to read, repeat and look at a result, in one directory.

``run.json`` (versions, seed, hashes), ``scenario.yaml`` (resolved), ``summary.json``, tables,
``timeline.json``, ``plots/*.svg`` and ``report.html``; a comparison holds one such run per policy
below ``policies/``. The same result gives the same bytes; with timing, only ``wall_s`` differs.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from moesim.errors import InputError
from moesim.results.columns import TABLES
from moesim.results.comparison import Comparison
from moesim.results.directory import FORMAT, FORMAT_VERSION, MANIFEST, files_below, read_manifest, replacing
from moesim.results.frames import BrokenLawError
from moesim.results.metrics import plain
from moesim.results.result import Result
from moesim.results.tables_io import read_table, table_suffix, write_table
from moesim.results.timeline import write_timeline

_LIBRARIES: Final = ("numpy", "pandas", "simpy")


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def _json(data: Any) -> str:
    return json.dumps(plain(data), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8 with plain line ends."""
    path.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, data: Any) -> None:
    """Write data as JSON."""
    write_text(path, _json(data))


def scenario_hash(scenario: Any) -> str:
    """Return the SHA-256 of a resolved scenario, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(plain(scenario), sort_keys=True).encode()).hexdigest()


def _scenario_yaml(scenario: Any) -> str:
    import yaml

    return str(yaml.safe_dump(plain(scenario), sort_keys=False, allow_unicode=True, width=100))


def head(kind: str, result: Result) -> dict[str, Any]:
    """Return what every manifest begins with."""
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "kind": kind,
        "name": result.name,
        "seed": result.seed,
        "version": result.version,
        "versions": _versions(),
        "scenario_sha256": scenario_hash(result.scenario),
        "scenario": result.scenario,
    }


def finish(directory: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest, which names every file of the directory, itself included."""
    names = sorted({*files_below(directory), MANIFEST})
    write_text(directory / MANIFEST, _json({**manifest, "files": names}))


def _write_result(result: Result, directory: Path, timing: bool, charts: Sequence[str] | None = None) -> None:
    from moesim.results.plots.gallery import result_plots
    from moesim.results.plots.style import render
    from moesim.results.report import report_html

    directory.mkdir(parents=True, exist_ok=True)
    write_text(directory / "scenario.yaml", _scenario_yaml(result.scenario))
    write_text(directory / "summary.json", _json(result.summary(timing)))
    (directory / "tables").mkdir()
    tables = {}
    for name, frame in result.tables.items():
        path = directory / "tables" / f"{name}{table_suffix()}"
        write_table(frame, path)
        tables[name] = {
            "file": f"tables/{path.name}",
            "rows": len(frame),
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
    if len(result.spans):
        about = {"scenario": result.name, "policy": result.policy, "moesim": result.version}
        write_timeline(result.spans, directory / "timeline.json", about)
    (directory / "plots").mkdir()
    plots = {name: render(figure, "svg") for name, figure in result_plots(result, charts).items()}
    for name, image in plots.items():
        (directory / "plots" / f"{name}.svg").write_bytes(image)
    write_text(directory / "report.html", report_html(result, plots))
    manifest = head("result", result)
    manifest["policy"] = {"name": result.policy, "parameters": result.parameters, "exact": result.exact}
    manifest |= {"events": result.events, "wall_s": result.wall_s if timing else None, "tables": tables}
    manifest["notes"] = list(result.notes)
    finish(directory, manifest)


def write_comparison(comparison: Comparison, directory: Path, timing: bool) -> None:
    """Write a comparison into a directory that is empty."""
    from moesim.results.plots.gallery import OWN_PLOTS, comparison_plots
    from moesim.results.plots.style import render
    from moesim.results.report import report_html

    write_text(directory / "scenario.yaml", _scenario_yaml(comparison.baseline.scenario))
    write_text(directory / "summary.json", _json(comparison.to_dict()))
    write_text(directory / "explanation.txt", "\n".join(comparison.explain()) + "\n")
    (directory / "plots").mkdir()
    figures = comparison_plots(comparison)
    plots = {name: render(figure, "svg") for name, figure in figures.items()}
    for name, image in plots.items():
        (directory / "plots" / f"{name}.svg").write_bytes(image)
    (directory / "plots" / "overview.png").write_bytes(render(figures["overview"], "png"))
    write_text(directory / "report.html", report_html(comparison, plots))
    folders: dict[str, str] = {}
    for number, result in enumerate(comparison.results):
        slug = re.sub(r"[^A-Za-z0-9_-]+", "_", result.policy).strip("_")[:48].lower() or "policy"
        while f"policies/{slug}" in folders.values():
            slug = f"{slug}-{number}"
        folders[result.policy] = f"policies/{slug}"
        _write_result(result, directory / folders[result.policy], timing, OWN_PLOTS)
    manifest = head("comparison", comparison.baseline)
    manifest |= {"baseline": comparison.baseline.policy, "policies": folders}
    finish(directory, manifest)


def save(run: Result | Comparison, directory: str | Path, *, timing: bool = True) -> Path:
    """Write a run to a directory, whole or not at all.

    Args:
        run: a result or a comparison.
        directory: a new or empty directory, or an earlier run, which is replaced.
        timing: keep the wall-clock time; without it the same run gives the same bytes.

    Returns:
        The directory.

    Raises:
        InputError: the directory holds something else, or cannot be written.
    """
    with replacing(directory) as work:
        if isinstance(run, Comparison):
            write_comparison(run, work, timing)
        else:
            _write_result(run, work, timing)
    return Path(directory)


def _inside(directory: Path, name: str) -> Path:
    """Return a path named by a manifest, which may not lead out of the run."""
    path = directory / name
    if not path.resolve().is_relative_to(directory.resolve()):
        message = f"{MANIFEST} names a file outside the run: {name}"
        raise InputError(message, str(directory))
    return path


def load_result(directory: str | Path) -> Result:
    """Read a run of one policy.

    Raises:
        InputError: not a run, a comparison, or damaged.
    """
    folder = Path(directory)
    manifest = read_manifest(folder)
    if manifest.get("kind") != "result":
        message = "this is a comparison of several policies"
        raise InputError(message, str(folder), hint="read it with load_comparison")
    try:
        frames = {}
        for name, entry in manifest["tables"].items():
            path = _inside(folder, entry["file"])
            if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != entry["sha256"]:
                message = f"table '{name}' is missing or damaged"
                raise InputError(message, str(path))
            frames[name] = read_table(TABLES[name], path)
        return Result.from_tables(
            frames,
            name=manifest["name"],
            policy=manifest["policy"]["name"],
            parameters=manifest["policy"]["parameters"],
            exact=manifest["policy"]["exact"],
            scenario=manifest["scenario"],
            seed=manifest["seed"],
            version=manifest["version"],
            wall_s=manifest["wall_s"],
            events=manifest["events"],
            notes=tuple(str(note) for note in manifest["notes"]),
        )
    except (KeyError, TypeError, AttributeError, BrokenLawError) as error:
        message = f"the run is damaged: {error}"
        raise InputError(message, str(folder)) from error


def load_comparison(directory: str | Path) -> Comparison:
    """Read a comparison with the runs of its policies.

    Raises:
        InputError: not a comparison, or damaged.
    """
    folder = Path(directory)
    manifest = read_manifest(folder)
    if manifest.get("kind") != "comparison":
        message = "this is a run of one policy"
        raise InputError(message, str(folder), hint="read it with load_result")
    try:
        results = [load_result(_inside(folder, place)) for place in manifest["policies"].values()]
        return Comparison(results, manifest["baseline"])
    except (KeyError, TypeError, AttributeError) as error:
        message = f"the comparison is damaged: {error}"
        raise InputError(message, str(folder)) from error
