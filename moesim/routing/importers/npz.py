"""Import .npz files of expert ids per token.

Arrays: ``ids`` [tokens, layers, top_k]; optionally ``weights`` (numbers) or ``weights_e4`` (whole numbers,
weight times 10000), ``seq_len`` (tokens per sequence, in order) or ``sequence`` (number per token), and
``phase`` (0 prefill, 1 decode); ``layers`` (transformer layer index of each column).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from moesim.errors import InputError
from moesim.routing.format import AnyArray, row_blocks
from moesim.routing.importers.reading import read_npz, whole_numbers
from moesim.routing.writer import TraceWriter

_KNOWN: Final = frozenset({"ids", "weights", "weights_e4", "seq_len", "sequence", "phase", "layers"})
_ROWS: Final = 4096


def import_npz(
    source: Path,
    target: Path,
    *,
    experts: int,
    layers: Sequence[int] | None = None,
    first_layer: int = 0,
    model: str = "",
    provenance: str = "",
    licence: str | None = None,
    overwrite: bool = False,
) -> None:
    """Import one .npz file, or a directory of them, each a task named after its file.

    Args:
        source: file or directory.
        target: trace to write.
        experts: routed experts per layer.
        layers: transformer layer index of each column; default: what the file says, else counted
            up from ``first_layer``.
        first_layer: transformer layer index of the first column.
        model: name of the model.
        provenance: where the data came from.
        licence: licence of the data.
        overwrite: replace a trace that exists.

    Raises:
        InputError: naming file and array.
    """
    files = sorted(source.glob("*.npz")) if source.is_dir() else [source]
    if not files:
        message = f"there are no .npz files in '{source}'"
        raise InputError(message)
    loaded = _read(files[0])
    width, top_k = loaded["ids"].shape[1:]
    layers = layers or _layers(loaded)
    with TraceWriter(
        target,
        model=model,
        experts=experts,
        top_k=int(top_k),
        layers=layers if layers is not None else range(first_layer, first_layer + int(width)),
        tasks=[path.stem for path in files],
        provenance=provenance or f"imported from {', '.join(path.name for path in files)}",
        licence=licence,
        weights="weights" in loaded,
        weight_scale=1e-4 if "weights_e4" in loaded else None,
        overwrite=overwrite,
    ) as writer:
        base = 0
        for number, path in enumerate(files):
            if number:
                before = _layers(loaded)
                loaded = _read(path)
                if _layers(loaded) != before:
                    message = f"this file has other layers than '{files[0].name}'"
                    raise InputError(message, str(path))
            try:
                base = _append(writer, loaded, path, base)
            except InputError as error:
                message = f"'{path.name}': {error.message}"
                raise InputError(message, error.file, error.line, error.column, error.hint) from error


def _read(path: Path) -> dict[str, AnyArray]:
    """Read and check the arrays of one file."""
    name = str(path)
    arrays = read_npz(path)
    if "ids" not in arrays:
        message = f"there is no array 'ids' in this file, only {', '.join(sorted(arrays)) or 'nothing'}"
        raise InputError(message, name)
    unknown = sorted(set(arrays) - _KNOWN)
    if unknown:
        message = f"the array '{unknown[0]}' is not known here"
        raise InputError(message, name, hint=f"known: {', '.join(sorted(_KNOWN))}")
    for one, other in (("weights", "weights_e4"), ("seq_len", "sequence")):
        if one in arrays and other in arrays:
            message = f"the file has both '{one}' and '{other}'"
            raise InputError(message, name)
    whole_numbers(arrays["ids"], (3,), "ids", name)
    tokens = len(arrays["ids"])
    for label in ("weights", "weights_e4"):
        if label in arrays and arrays[label].shape != arrays["ids"].shape:
            message = f"'{label}' has shape {arrays[label].shape}, 'ids' has {arrays['ids'].shape}"
            raise InputError(message, name)
    if "seq_len" in arrays:
        lengths = whole_numbers(arrays.pop("seq_len"), (1,), "seq_len", name).astype(np.int64)
        if (lengths < 0).any() or int(lengths.sum()) != tokens:
            message = f"'seq_len' adds up to {int(lengths.sum())} tokens, 'ids' has {tokens}"
            raise InputError(message, name)
        arrays["sequence"] = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    lengths_of = {"sequence": tokens, "phase": tokens, "layers": arrays["ids"].shape[1]}
    for label, wanted in lengths_of.items():
        if label in arrays:
            column = whole_numbers(arrays[label], (1,), label, name)
            if len(column) != wanted:
                message = f"'{label}' has {len(column)} entries, 'ids' calls for {wanted}"
                raise InputError(message, name)
    return arrays


def _layers(arrays: dict[str, AnyArray]) -> list[int] | None:
    """Return the layer indices that a file states."""
    return arrays["layers"].tolist() if "layers" in arrays else None


def _append(writer: TraceWriter, arrays: dict[str, AnyArray], path: Path, base: int) -> int:
    """Append the tokens of one file; returns the first sequence number of the next."""
    for part in row_blocks(len(arrays["ids"]), _ROWS):
        columns: dict[str, Any] = {"task": path.stem}
        if "weights" in arrays:
            columns["weights"] = arrays["weights"][part]
        if "weights_e4" in arrays:
            columns["weights"] = arrays["weights_e4"][part] / 1e4
        if "phase" in arrays:
            columns["phase"] = arrays["phase"][part]
        if "sequence" in arrays:
            columns["sequence"] = arrays["sequence"][part].astype(np.int64) + base
        writer.append(arrays["ids"][part], **columns)
    if "sequence" in arrays and len(arrays["sequence"]):
        return base + int(arrays["sequence"].max()) + 1
    return base
