"""A search on disk: what was measured, as it is measured, and what was found, at the end."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from moesim import __version__
from moesim.errors import InputError
from moesim.results.metrics import plain
from moesim.tuning.trial import Measured

if TYPE_CHECKING:
    from moesim.tuning.outcome import Outcome

ABOUT: Final = "search.json"
MEASURED: Final = "measured.jsonl"
FORMAT: Final = "moesim-search"


class Folder:
    """Where a search is kept."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def open(cls, out: str | Path, resume: bool, about: Mapping[str, Any]) -> Folder:
        """Make a directory for a search, or find the one that is resumed.

        Args:
            out: the directory.
            resume: whether it may hold an earlier search.
            about: what must be the same in a search that is resumed.

        Raises:
            InputError: it holds something else, another search, or one that is not to be resumed; or it
                cannot be written.
        """
        path = Path(out).expanduser()
        head = {"format": FORMAT, "version": __version__, **plain(about)}
        try:
            if path.exists() and (not path.is_dir() or any(path.iterdir())):
                _check(path, resume, head)
            path.mkdir(parents=True, exist_ok=True)
            _write(path / ABOUT, json.dumps(head, indent=2, ensure_ascii=False) + "\n")
        except OSError as error:
            message = f"cannot write the search: {error.strerror or error}"
            raise InputError(message, str(path)) from error
        return cls(path)

    def known(self) -> Iterator[tuple[dict[str, Any], Measured]]:
        """Yield what was measured earlier: settings and what came of them."""
        path = self.path / MEASURED
        if not path.exists():
            return
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
                yield dict(entry["settings"]), Measured(**entry["measured"])
            except (ValueError, KeyError, TypeError):
                continue  # the line that was being written when the process was killed

    def add(self, settings: Mapping[str, Any], measured: Measured) -> None:
        """Keep what was measured."""
        entry = {"settings": dict(settings), "measured": vars(measured)}
        path = self.path / MEASURED
        begun = path.exists() and not path.read_bytes().endswith(b"\n")
        with path.open("a", encoding="utf-8") as file:
            file.write("\n" * begun + json.dumps(plain(entry)) + "\n")

    def write(self, outcome: Outcome) -> None:
        """Write trials, best settings, front and charts."""
        import yaml

        from moesim.results.plots.style import render

        _write(self.path / "tune.json", json.dumps(outcome.to_dict(), indent=2, allow_nan=False) + "\n")
        _write(self.path / "trials.csv", outcome.table.to_csv(index=False, lineterminator="\n"))
        best = outcome.best_mapping
        if best is not None:
            text = yaml.safe_dump({"policies": [best]}, sort_keys=False, allow_unicode=True)
            _write(self.path / "best.yaml", text)
        figure = outcome.plot()
        for kind in ("svg", "png"):
            (self.path / f"trials.{kind}").write_bytes(render(figure, kind))


def _check(path: Path, resume: bool, head: Mapping[str, Any]) -> None:
    """Refuse a directory that does not hold this search.

    Raises:
        InputError: it holds something else, another search, or one that is not to be resumed.
    """
    try:
        earlier = json.loads((path / ABOUT).read_text(encoding="utf-8")) if path.is_dir() else None
    except (OSError, ValueError):
        earlier = None
    if not isinstance(earlier, dict) or earlier.get("format") != FORMAT:
        message = "the directory is not empty and not an earlier search"
        raise InputError(message, str(path), hint="choose a new directory")
    if not resume:
        message = "the directory holds an earlier search"
        raise InputError(message, str(path), hint="go on with it (--resume), or choose a new directory")
    for key, value in head.items():
        if earlier.get(key) != value:
            message = (
                f"the earlier search has another {key.replace('_', ' ')}: {earlier.get(key)}, not {value}"
            )
            raise InputError(message, str(path), hint="choose a new directory")


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    work = path.with_name(f".{path.name}.new")
    work.write_text(text, encoding="utf-8", newline="\n")
    work.replace(path)
