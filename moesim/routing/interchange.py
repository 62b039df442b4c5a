"""Routing traces as Parquet files, for other tools; one row per token (or per step of counts).

Columns: ``ids`` is a fixed-size list of ``layers * top_k`` whole numbers, layer by layer; ``weights``
likewise (float32, or uint16 multiples of ``weight_scale``); ``sequence``, ``phase`` and ``task`` are plain
columns; a counts-only trace has ``counts``, ``layers * experts`` numbers per row. What the manifest says
stands as JSON under the key ``moesim`` of the schema's metadata.
"""

from __future__ import annotations

import json
import secrets
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import numpy as np

from moesim.errors import InputError
from moesim.routing.counts_writer import CountsWriter
from moesim.routing.format import FORMAT, VERSION, AnyArray, row_blocks
from moesim.routing.manifest import Manifest, check_fields
from moesim.routing.trace import RoutingTrace
from moesim.routing.writer import TraceWriter

_KEY: Final = b"moesim"
_BLOCK_ITEMS: Final = 1 << 22


def _arrow() -> tuple[Any, Any]:
    """Import pyarrow.

    Raises:
        InputError: it is not installed.
    """
    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as error:
        message = "Parquet needs the package pyarrow, which is not installed"
        raise InputError(message, hint="pip install 'moesim[parquet]'") from error


def to_parquet(trace: RoutingTrace, target: str | Path, overwrite: bool = False) -> None:
    """Write a trace as one Parquet file, streaming; ids stay as stored.

    Raises:
        InputError: pyarrow is missing, or the target exists or cannot be written.
    """
    arrow, parquet = _arrow()
    path = Path(target)
    if path.exists() and not (overwrite and path.is_file()):
        message = f"'{path}' exists already"
        raise InputError(message, hint="choose another name or allow overwriting")
    names = [name for name in trace.columns if name != "physical_to_logical"]
    fields = []
    for name in names:
        stored = trace.columns[name]
        # Parquet readers without half floats are common, and float32 holds them exactly.
        kind = np.dtype(np.float32) if stored.dtype == np.float16 else stored.dtype
        item = arrow.from_numpy_dtype(kind)
        width = int(np.prod(stored.shape[1:]))
        fields.append(
            arrow.field(name, arrow.list_(item, width) if stored.ndim > 1 else item, nullable=False)
        )
    schema = arrow.schema(fields, metadata={_KEY: json.dumps(_header(trace)).encode()})
    work = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    rows = trace.steps if trace.is_counts else trace.tokens
    widest = max(int(np.prod(trace.columns[name].shape[1:])) for name in names)
    try:
        with parquet.ParquetWriter(work, schema) as writer:
            for part in row_blocks(rows or 0, max(1, _BLOCK_ITEMS // widest)):
                arrays = [
                    _to_arrow(trace.columns[name][part], field)
                    for name, field in zip(names, fields, strict=True)
                ]
                writer.write_table(arrow.Table.from_arrays(arrays, schema=schema))
        work.replace(path)
    except OSError as error:
        message = f"cannot write '{path}': {error.strerror or error}"
        raise InputError(message) from error
    finally:
        work.unlink(missing_ok=True)


def _header(trace: RoutingTrace) -> dict[str, Any]:
    """Return the manifest without its files."""
    header = trace.manifest.model_dump(exclude={"files", "tokens", "steps"}, exclude_none=True)
    if trace.physical_to_logical is not None:
        header["physical_to_logical"] = trace.physical_to_logical.tolist()
    return header


def _to_arrow(values: AnyArray, field: Any) -> Any:
    """Turn rows into an Arrow array of the field's type."""
    arrow, _ = _arrow()
    if values.ndim == 1:
        return arrow.array(np.asarray(values), type=field.type)
    flat = arrow.array(np.asarray(values).ravel().astype(field.type.value_type.to_pandas_dtype()))
    return arrow.FixedSizeListArray.from_arrays(flat, type=field.type)


def from_parquet(source: Path, target: Path, *, overwrite: bool = False) -> None:
    """Import a Parquet file that :func:`to_parquet` wrote (or one of the same layout), streaming.

    Args:
        source: Parquet file.
        target: trace to write.
        overwrite: replace a trace that exists.

    Raises:
        InputError: pyarrow is missing, or the file is damaged, foreign, or holds wrong numbers.
    """
    arrow, parquet = _arrow()
    name = str(source)
    if not source.is_file():
        message = "there is no such file"
        raise InputError(message, name)
    try:
        with parquet.ParquetFile(source) as file:
            schema = file.schema_arrow
            manifest, mapping = _read_header(schema.metadata or {}, name)
            if manifest.kind == "counts":
                _read_counts(file, manifest, target, overwrite, name)
            else:
                _read_tokens(file, manifest, mapping, schema.names, target, overwrite, name)
    except (arrow.ArrowException, OSError) as error:
        message = f"this is not a readable Parquet file: {str(error)[:200]}"
        raise InputError(message, name) from error


def _read_header(metadata: dict[bytes, bytes], name: str) -> tuple[Manifest, Any]:
    """Read what the schema's metadata say about the trace; returns (manifest, physical_to_logical)."""
    try:
        header = json.loads(metadata[_KEY])
    except (KeyError, ValueError, RecursionError) as error:
        message = "this Parquet file is not a routing trace: its metadata have no readable entry 'moesim'"
        raise InputError(message, name, hint="the layout is described in docs/trace-format.md") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT or header.get("version") != VERSION:
        message = f"this Parquet file is not a '{FORMAT}' of version {VERSION}"
        raise InputError(message, name)
    mapping = header.pop("physical_to_logical", None)
    return check_fields(header, name), mapping


def _read_tokens(
    file: Any, manifest: Manifest, mapping: Any, columns: list[str], target: Path, overwrite: bool, name: str
) -> None:
    """Copy a trace of tokens."""
    scale = manifest.weight_scale
    weighted = "weights" in columns
    item = (len(manifest.layers), manifest.top_k)
    with TraceWriter(
        target,
        model=manifest.model,
        experts=manifest.experts,
        top_k=manifest.top_k,
        layers=manifest.layers,
        ids_kind=manifest.ids_kind,
        tasks=manifest.tasks,
        provenance=manifest.provenance,
        licence=manifest.licence,
        weights=weighted,
        weight_scale=scale if weighted else None,
        physical_to_logical=mapping,
        overwrite=overwrite,
    ) as writer:
        extra = [key for key in ("sequence", "phase", "task") if key in columns]
        for batch in file.iter_batches(max(1, _BLOCK_ITEMS // (item[0] * item[1]))):
            values: dict[str, Any] = {key: _from_arrow(batch, key, (), name) for key in extra}
            if weighted:
                weights = _from_arrow(batch, "weights", item, name)
                values["weights"] = weights if scale is None else weights * scale
            writer.append(_from_arrow(batch, "ids", item, name), **values)


def _read_counts(file: Any, manifest: Manifest, target: Path, overwrite: bool, name: str) -> None:
    """Copy a counts-only trace."""
    item = (len(manifest.layers), manifest.experts)
    with CountsWriter(
        target,
        model=manifest.model,
        experts=manifest.experts,
        top_k=manifest.top_k,
        layers=manifest.layers,
        provenance=manifest.provenance,
        licence=manifest.licence,
        overwrite=overwrite,
    ) as writer:
        for batch in file.iter_batches(max(1, _BLOCK_ITEMS // (item[0] * item[1]))):
            writer.append(_from_arrow(batch, "counts", item, name))


def _from_arrow(batch: Any, column: str, item: tuple[int, ...], name: str) -> AnyArray:
    """Turn a column of a batch into rows [n, *item]."""
    if column not in batch.schema.names:
        message = f"there is no column '{column}'"
        raise InputError(message, name)
    array = batch.column(column)
    nested = hasattr(array, "flatten")
    if nested != bool(item):
        message = f"the column '{column}' holds {array.type}"
        raise InputError(message, name, hint="the layout is described in docs/trace-format.md")
    flat = array.flatten() if nested else array
    if array.null_count or flat.null_count:
        message = f"the column '{column}' has missing values"
        raise InputError(message, name)
    values = flat.to_numpy(zero_copy_only=False)
    if values.dtype.kind not in "iuf" or values.size != len(array) * int(np.prod(item)):
        message = f"the column '{column}' does not hold {int(np.prod(item))} numbers in every row"
        raise InputError(message, name)
    return np.asarray(values).reshape(len(array), *item)
