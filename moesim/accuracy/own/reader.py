"""Reading a file of own timings strictly: what cannot be meant is refused by line, column and value."""

from __future__ import annotations

import csv
import datetime
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd

from moesim.accuracy.own.columns import (
    LOADS,
    OPTIONAL,
    OWN_FAMILIES,
    REQUIRED,
    TIME_COLUMNS,
    OwnFamily,
    known_columns,
)
from moesim.accuracy.own.loads import check_load
from moesim.errors import InputError, unknown_name

MAX_EXTENT: Final = 2**50
"""Largest whole number that a shape may hold."""

LONGEST_S: Final = 3600.0
"""Longest time of one row (s)."""


@dataclass(frozen=True, eq=False)
class OwnTimings:
    """A file of own timings.

    Attributes:
        file: its path as given.
        rows: one row per timing: all known columns but the time's, ``seconds``, ``unit`` (the time's column)
            and ``line`` in the file; NaN in columns of other families.
    """

    file: str
    rows: pd.DataFrame

    @property
    def name(self) -> str:
        """Return the file's name without its folder."""
        return Path(self.file).name

    def family(self, name: str) -> pd.DataFrame:
        """Return the rows of a family."""
        return self.rows[self.rows["family"] == name]


def read_timings(path: str | Path) -> OwnTimings:
    """Read a file of own timings.

    Raises:
        InputError: the file, a column or a value cannot be used; says where and what is expected.
    """
    file = str(path)
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as stream:
            rows = list(_rows(csv.reader(stream, strict=True), file))
    except UnicodeDecodeError as error:
        message = f"is not a text in UTF-8 (byte {error.start})"
        raise InputError(message, file) from error
    except csv.Error as error:
        message = f"is not comma-separated text: {error}"
        raise InputError(message, file) from error
    if not rows:
        message = "holds no timings, only names of columns"
        raise InputError(message, file)
    frame = pd.DataFrame(rows)
    lacking = [name for name in known_columns() if name not in frame.columns and name not in TIME_COLUMNS]
    return OwnTimings(file, frame.reindex(columns=[*frame.columns, *lacking]))


def _rows(reader: Any, file: str) -> Iterator[dict[str, Any]]:
    """Yield the rows, each checked, and none twice."""
    names = next(reader, None)
    if not names:
        message = "is empty; expected a first line with names of columns"
        raise InputError(message, file, 1)
    header = [name.strip() for name in names]
    unit = _check_header(header, file)
    seen: dict[tuple[Any, ...], int] = {}
    for cells in reader:
        line = reader.line_num
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(header):
            message = f"has {len(cells)} values under {len(header)} names of columns"
            raise InputError(message, file, line)
        values = {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
        try:
            row = _row(values, unit)
        except InputError as error:
            raise error.at(file, line) from error
        key = _identity(row)
        if key in seen:
            message = f"times the same as line {seen[key]}"
            raise InputError(message, file, line, hint="keep one row, for example the median")
        seen[key] = line
        yield {**row, "line": line}


def _check_header(header: list[str], file: str) -> str:
    """Check the names of the columns and return the one of the time."""
    known = known_columns()
    for name in header:
        if name.startswith("latency") and name not in TIME_COLUMNS:
            message = f"the column '{name}' does not say a unit"
            raise InputError(message, file, 1, hint=f"one of {', '.join(TIME_COLUMNS)}")
        if name not in known:
            raise unknown_name("column", name[:60], known).at(file, 1)
        if header.count(name) > 1:
            message = f"the column '{name}' stands there twice"
            raise InputError(message, file, 1)
    times = [name for name in header if name in TIME_COLUMNS]
    missing = [name for name in REQUIRED if name not in header]
    if missing or len(times) != 1:
        lacking = ", ".join([*missing, *([] if times else ["latency_us"])])
        message = f"lacks the column {lacking}" if lacking else f"has several times: {', '.join(times)}"
        raise InputError(message, file, 1, hint="docs/measurements.md lists the columns")
    return times[0]


def _row(values: Mapping[str, str], unit: str) -> dict[str, Any]:
    """Read one row."""
    for name in REQUIRED:
        if not values[name]:
            message = f"'{name}' is empty"
            raise InputError(message)
    if values["family"] not in OWN_FAMILIES:
        raise unknown_name("family of timings", values["family"][:60], OWN_FAMILIES)
    family = OWN_FAMILIES[values["family"]]
    if family.dtypes and values["dtype"] not in family.dtypes:
        raise unknown_name(f"dtype of '{values['family']}'", values["dtype"][:60], family.dtypes)
    _check_date(values["date"])
    row: dict[str, Any] = {name: values[name] for name in REQUIRED}
    row["unit"] = unit
    row["seconds"] = _number(values[unit], unit) * TIME_COLUMNS[unit]
    if row["seconds"] > LONGEST_S:
        message = f"'{unit}' is {values[unit]}, more than an hour for one call"
        raise InputError(message, hint="are these microseconds?")
    for name in family.shape:
        row[name] = _count(values.get(name, ""), name, family.least.get(name, 1))
    for name, words in {**OPTIONAL, **family.texts}.items():
        row[name] = _word(values.get(name, ""), name, words)
    _check_others(values, family)
    if values["family"].startswith("attention"):
        _check_attention(row)
    if values["family"] == "moe":
        row |= check_load(row, values)
    return row


def _check_attention(row: Mapping[str, Any]) -> None:
    """Refuse attention that cannot be."""
    if row["context"] < row["queries"]:
        message = f"'context' holds the queries too: at least {row['queries']}, got {row['context']}"
        raise InputError(message)
    if row["heads"] % row["kv_heads"]:
        message = f"'heads' must be a multiple of 'kv_heads', got {row['heads']} and {row['kv_heads']}"
        raise InputError(message)


def _check_others(values: Mapping[str, str], family: OwnFamily) -> None:
    """Refuse values in columns of other families."""
    own = {*family.shape, *family.texts, *(LOADS if values["family"] == "moe" else ())}
    for name, other in OWN_FAMILIES.items():
        for column in (*other.shape, *other.texts, *(LOADS if name == "moe" else ())):
            if values.get(column) and column not in own:
                message = f"'{column}' is not for family '{values['family']}', got '{values[column][:40]}'"
                raise InputError(message, hint=f"it belongs to '{name}'; leave it empty")


def _identity(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what tells a row from others: everything but its time and date."""
    return tuple(value for name, value in row.items() if name not in ("seconds", "date"))


def _number(text: str, name: str) -> float:
    """Read a positive, finite number."""
    try:
        value = float(text)
    except ValueError as error:
        message = f"'{name}' must be a number, got '{text[:40]}'"
        raise InputError(message) from error
    if not math.isfinite(value) or value <= 0:
        message = f"'{name}' must be a finite number above zero, got '{text[:40]}'"
        raise InputError(message)
    return value


def _count(text: str, name: str, least: int) -> int:
    """Read a whole number; ``1e6`` and ``4096.0`` are whole."""
    try:
        value = float(text)
        whole = int(value) if math.isfinite(value) else -1
    except ValueError:
        value, whole = math.nan, -1
    if whole != value or not least <= whole <= MAX_EXTENT:
        shown = f"got '{text[:40]}'" if text else "but it is empty"
        message = f"'{name}' must be a whole number of at least {least}, {shown}"
        raise InputError(message)
    return whole


def _word(text: str, name: str, words: tuple[str, ...]) -> str:
    """Read one of a few words."""
    if text and text not in words:
        message = f"'{name}' must be {' or '.join(words)}, got '{text[:40]}'"
        raise InputError(message)
    return text or words[0]


def _check_date(text: str) -> None:
    try:
        datetime.date.fromisoformat(text)
    except ValueError as error:
        message = f"'date' must be a date such as 2026-11-23, got '{text[:40]}'"
        raise InputError(message) from error
