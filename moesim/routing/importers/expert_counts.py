"""Write copies per expert, logical or physical, as a counts-only trace: what count importers share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.errors import InputError
from moesim.routing.counting import IntArray, to_logical
from moesim.routing.counts_writer import CountsWriter
from moesim.routing.importers.reading import whole_numbers


def logical_counts(data: dict[str, Any], names: dict[str, str], experts: int | None, name: str) -> IntArray:
    """Take counts out of a dump, adding up replicas where they are physical.

    Args:
        data: the dump.
        names: key of the dump -> ``logical`` or ``physical``, in order of preference.
        experts: logical experts, where the dump has physical counts; None takes those of the map.
        name: file for messages.

    Returns:
        int64 [steps, layers, experts].

    Raises:
        InputError: no counts, or physical ones without a map that fits.
    """
    key = next((key for key in names if key in data), None)
    if key is None:
        message = f"there are no counts in this dump: none of {', '.join(names)}"
        raise InputError(message, name, hint=f"it has: {', '.join(sorted(map(str, data))[:12]) or 'nothing'}")
    counts = whole_numbers(data[key], (2, 3), key, name).astype(np.int64)
    if counts.ndim == 2:
        counts = counts[np.newaxis]
    if names[key] == "logical":
        return counts
    return fold_replicas(counts, mapping_of(data, name), experts, key, name)


def mapping_of(data: dict[str, Any], name: str) -> npt.NDArray[np.integer[Any]]:
    """Take the map from physical to logical experts, [layers, physical], out of a dump.

    Raises:
        InputError: there is none, or it is no table of whole numbers.
    """
    for key in ("physical_to_logical_map", "last_physical_to_logical_map", "physical_to_logical"):
        if key in data:
            return whole_numbers(data[key], (2,), key, name)
    message = "counts of physical experts need a 'physical_to_logical_map', [layers, physical experts]"
    raise InputError(message, name, hint="without it, replicas cannot be told from experts")


def fold_replicas(
    counts: IntArray, mapping: npt.NDArray[np.integer[Any]], experts: int | None, key: str, name: str
) -> IntArray:
    """Add up replicas, [steps, layers, physical] -> [steps, layers, experts].

    A slot mapped to -1 is inactive and must have no copies.

    Raises:
        InputError: a map of another shape, or one that names an expert that does not exist.
    """
    if mapping.shape != counts.shape[1:]:
        message = f"the map has shape {mapping.shape}, '{key}' has {counts.shape[1:]} layers and experts"
        raise InputError(message, name)
    most = int(mapping.max()) if mapping.size else -1
    logical = experts or most + 1
    if int(mapping.min()) < -1 or most >= logical:
        message = f"the map names an expert outside 0..{logical - 1}"
        raise InputError(message, name)
    inactive = mapping < 0
    if counts[:, inactive].any():
        message = "the map marks a slot as inactive (-1) that has copies"
        raise InputError(message, name)
    by_layer = np.moveaxis(counts, 0, 1)
    return np.moveaxis(to_logical(by_layer, np.where(inactive, 0, mapping), logical), 0, 1)


def write_counts(
    target: Path,
    counts: IntArray,
    *,
    top_k: int,
    experts: int | None,
    layers: Sequence[int] | None,
    first_layer: int,
    model: str,
    provenance: str,
    licence: str | None,
    overwrite: bool,
    name: str,
) -> None:
    """Write counts [steps, layers, experts], leaving out what was never recorded.

    Steps without any copies (unused rows of a ring buffer) and layers without any copies (dense ones)
    are left out; layer indices stay those of the dump.

    Raises:
        InputError: nothing recorded, or numbers that do not fit.
    """
    if layers is not None and len(layers) != counts.shape[1]:
        message = f"{len(layers)} layers were given, the dump has {counts.shape[1]}"
        raise InputError(message, name)
    if experts is not None and experts != counts.shape[2]:
        message = f"experts={experts} was given, the dump has {counts.shape[2]}"
        raise InputError(message, name)
    indices = np.asarray(layers if layers is not None else range(first_layer, first_layer + counts.shape[1]))
    steps = counts.any(axis=(1, 2))
    columns = counts.any(axis=(0, 2))
    if not steps.any():
        message = "every count is zero"
        raise InputError(message, name)
    with CountsWriter(
        target,
        model=model,
        experts=counts.shape[2],
        top_k=top_k,
        layers=indices[columns].tolist(),
        provenance=provenance,
        licence=licence,
        overwrite=overwrite,
    ) as writer:
        for step in np.flatnonzero(steps):
            writer.append(counts[step][columns])
