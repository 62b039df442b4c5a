"""The model of copies against copies that somebody measured."""

from __future__ import annotations

from dataclasses import dataclass

from moesim.hardware.catalogue import read_data
from moesim.hardware.copies import Stage, copy_seconds
from moesim.hardware.fields import Fields
from moesim.hardware.link_catalogue import load_link

_KEYS = ("what", "path", "bytes", "rate", "time", "source", "used")


@dataclass(frozen=True)
class CopyCheck:
    """One measured copy, or several one after the other.

    Attributes:
        what: machine and copy.
        path: links, in order.
        sizes: bytes of each copy.
        measured_s: what was measured for all of them (s).
        predicted_s: what the model says (s).
        source: key of the list of sources.
        used: whether the catalogue's value rests on this measurement, which then proves nothing.
    """

    what: str
    path: tuple[str, ...]
    sizes: tuple[int, ...]
    measured_s: float
    predicted_s: float
    source: str
    used: bool

    @property
    def error(self) -> float:
        """Relative error of the prediction, negative where it is too fast."""
        return self.predicted_s / self.measured_s - 1.0


def copy_checks() -> list[CopyCheck]:
    """Return every measured copy with its prediction, by file order."""
    return [_check(Fields(entry, f"copy_checks[{number}]", _KEYS)) for number, entry in enumerate(_entries())]


def _entries() -> list[object]:
    return list(read_data("copy_checks"))


def _check(fields: Fields) -> CopyCheck:
    path, sizes = tuple(fields.raw("path")), tuple(fields.raw("bytes"))
    links = [load_link(name) for name in path]
    stages = [Stage(link.load, link.start_s, link.latency_s, link.name) for link in links]
    rate = sum(sizes) / fields.quantity("rate", "B/s") if "rate" in fields else None
    return CopyCheck(
        what=fields.text("what", ""),
        path=path,
        sizes=sizes,
        measured_s=fields.quantity("time", "s", rate),
        predicted_s=float(copy_seconds(sizes, stages).sum()),
        source=fields.text("source", ""),
        used=bool(fields.raw("used")),
    )
