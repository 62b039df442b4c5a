"""The formats that can be imported, by name, with typed options."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from moesim.errors import InputError, unknown_name
from moesim.routing.importers.counts_csv import import_counts_csv
from moesim.routing.importers.esft import import_esft
from moesim.routing.importers.npz import import_npz
from moesim.routing.importers.selected_json import import_selected
from moesim.routing.importers.sglang import import_sglang
from moesim.routing.importers.vllm import import_vllm
from moesim.routing.interchange import from_parquet
from moesim.routing.trace import RoutingTrace

Importer = Callable[..., None]

_IMPORTERS: Final[dict[str, Importer]] = {
    "counts-csv": import_counts_csv,
    "esft": import_esft,
    "json": import_selected,
    "npz": import_npz,
    "parquet": from_parquet,
    "sglang": import_sglang,
    "vllm": import_vllm,
}


def importer_kinds() -> list[str]:
    """Return the names of the formats that can be imported."""
    return sorted(_IMPORTERS)


def importer_summary(kind: str) -> str:
    """Return one line about a format.

    Raises:
        InputError: an unknown format.
    """
    return (inspect.getdoc(_importer(kind)) or "").partition("\n")[0]


def importer_options(kind: str) -> dict[str, inspect.Parameter]:
    """Return the options of a format by name, with annotation and default.

    Raises:
        InputError: an unknown format.
    """
    parameters = inspect.signature(_importer(kind), eval_str=True).parameters
    return {name: item for name, item in parameters.items() if item.kind is item.KEYWORD_ONLY}


def import_trace(kind: str, source: str | Path, target: str | Path, **options: Any) -> RoutingTrace:
    """Import a foreign recording as a routing trace.

    Args:
        kind: one of :func:`importer_kinds`.
        source: file or directory to read.
        target: trace directory to write.
        options: see :func:`importer_options`; text is converted (``"8"``, and ``"1,2,3"`` for lists).

    Returns:
        The new trace, open.

    Raises:
        InputError: an unknown format or option, or a recording that cannot be used.
    """
    importer = _importer(kind)
    known = importer_options(kind)
    values: dict[str, Any] = {}
    for name, value in options.items():
        if name not in known:
            raise unknown_name(f"option of the importer '{kind}'", name, known)
        values[name] = _convert(kind, name, value, known[name])
    for name, parameter in known.items():
        if parameter.default is parameter.empty and name not in values:
            message = f"the importer '{kind}' needs the option '{name}'"
            raise InputError(message)
    importer(Path(source), Path(target), **values)
    return RoutingTrace.open(target)


def _importer(kind: str) -> Importer:
    if kind not in _IMPORTERS:
        raise unknown_name("trace format", kind, _IMPORTERS)
    return _IMPORTERS[kind]


def _convert(kind: str, name: str, value: Any, parameter: inspect.Parameter) -> Any:
    """Bring an option to its type."""
    wants_list = "Sequence" in str(parameter.annotation)
    if wants_list and isinstance(value, str):
        value = [word.strip() for word in value.split(",")]
    elif wants_list and isinstance(value, range):
        value = list(value)
    try:
        return TypeAdapter(parameter.annotation).validate_python(value)
    except ValidationError as error:
        text = error.errors(include_url=False)[0]["msg"]
        message = f"the option '{name}' of the importer '{kind}' is wrong: {text}"
        raise InputError(message, hint=f"got {str(value)[:60]!r}") from error
