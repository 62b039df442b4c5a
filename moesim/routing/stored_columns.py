"""Open the columns of a trace and hold each against the manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from moesim.errors import InputError
from moesim.routing.format import AnyArray, open_array
from moesim.routing.manifest import Column, Manifest

_TYPES: Final[dict[str, tuple[str, ...]]] = {
    "ids": ("uint8", "int16"),
    "weights": ("float16", "uint16"),
    "sequence": ("int32",),
    "phase": ("uint8",),
    "task": ("int16",),
    "counts": ("int64",),
    "physical_to_logical": ("int16",),
}


def open_columns(directory: Path, manifest: Manifest) -> dict[Column, AnyArray]:
    """Map every column of a trace after checking its type, shape and size.

    Raises:
        InputError: a file that is missing, damaged, truncated or does not fit the manifest.
    """
    columns = {name: _open_column(directory, manifest, name) for name in manifest.files}
    mapping = columns.get("physical_to_logical")
    if mapping is not None and not 0 <= int(mapping.min()) <= int(mapping.max()) < manifest.experts:
        message = f"the map names a logical expert outside 0..{manifest.experts - 1}"
        raise InputError(message, str(directory / manifest.files["physical_to_logical"].file))
    return columns


def _expected_shape(manifest: Manifest, column: Column) -> tuple[int, ...]:
    """Return the shape that a column must have; -1 stands for any length."""
    layers = len(manifest.layers)
    if column in ("ids", "weights"):
        return (manifest.tokens, layers, manifest.top_k)
    if column == "counts":
        return (manifest.steps or 0, layers, manifest.experts)
    if column == "physical_to_logical":
        return (layers, -1)
    return (manifest.tokens,)


def _open_column(directory: Path, manifest: Manifest, column: Column) -> AnyArray:
    """Open one column and hold it against the manifest."""
    entry = manifest.files[column]
    path = directory / entry.file
    name = str(path)
    if manifest.kind == "counts" and column != "counts":
        message = f"a counts-only trace has no column '{column}'"
        raise InputError(message, name)
    if path.is_symlink() or (path.exists() and not path.is_file()):
        message = "the columns of a trace are regular files inside its directory"
        raise InputError(message, name)
    array = open_array(path)
    if entry.dtype not in _TYPES[column] or array.dtype != np.dtype(entry.dtype):
        message = f"the column '{column}' holds {array.dtype}, the manifest says {entry.dtype}"
        raise InputError(message, name, hint=f"allowed: {' or '.join(_TYPES[column])}")
    if column == "weights" and (array.dtype == np.uint16) != (manifest.weight_scale is not None):
        message = "whole-number weights need a weight_scale in the manifest, float16 weights none"
        raise InputError(message, name)
    wanted = _expected_shape(manifest, column)
    fits = len(wanted) == array.ndim and all(
        want in (-1, have) for want, have in zip(wanted, array.shape, strict=True)
    )
    if not fits or array.shape != entry.shape or path.stat().st_size != entry.bytes:
        text = ", ".join("any" if want == -1 else str(want) for want in wanted)
        message = (
            f"the column '{column}' has shape {array.shape}, the manifest says {entry.shape} of ({text})"
        )
        raise InputError(message, name)
    if column == "physical_to_logical" and array.size == 0:
        message = "the map from physical to logical experts is empty"
        raise InputError(message, name)
    return array
