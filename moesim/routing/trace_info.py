"""What a trace holds and how uneven its routing is, read in one streamed pass."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from moesim.routing.counting import IdCounter, IntArray, to_logical
from moesim.routing.format import PHASES, AnyArray, release, row_blocks
from moesim.routing.trace import RoutingTrace

FloatArray = npt.NDArray[np.float64]

_PAIRS: Final = 1 << 22  # ids compared at once when looking for overlap


def trace_info(trace: RoutingTrace) -> dict[str, Any]:
    """Describe a trace: its manifest, and per layer how unevenly the experts are used.

    Per layer: ``max_over_mean`` copies per expert, ``cv`` (standard deviation over mean), ``entropy``
    (of the expert distribution over its maximum, 1 is even) and ``overlap`` (share of a token's experts
    that the token before it in the same sequence used too; None without tokens).

    Raises:
        InputError: an expert id out of range.
    """
    manifest = trace.manifest
    info: dict[str, Any] = {
        "name": trace.name,
        "format": manifest.format,
        "version": manifest.version,
        "kind": manifest.kind,
        "model": manifest.model,
        "experts": manifest.experts,
        "top_k": manifest.top_k,
        "layers": list(manifest.layers),
        "tokens": manifest.tokens,
        "steps": manifest.steps,
        "ids_kind": manifest.ids_kind,
        "physical_experts": trace.id_limit if manifest.ids_kind == "physical" else None,
        "weights": trace.weights is not None,
        "bytes": sum(entry.bytes for entry in manifest.files.values()),
        "provenance": manifest.provenance,
        "licence": manifest.licence,
        "sequences": _sequences(trace),
        "phases": _tally(trace.phase, PHASES),
        "tasks": _tally(trace.task, trace.tasks),
    }
    if trace.is_counts:
        counts, overlap = _sum_steps(trace), None
    else:
        counts, overlap = _stream(trace)
    info["per_layer"] = _balance(trace, counts, overlap)
    for key in ("max_over_mean", "cv", "entropy", "overlap"):
        values = [row[key] for row in info["per_layer"] if row[key] is not None]
        info[f"mean_{key}"] = float(np.mean(values)) if values else None
    return info


def _sequences(trace: RoutingTrace) -> int | None:
    """Count runs of equal sequence numbers."""
    column = trace.sequence
    if column is None:
        return None
    runs, last = 0, -1
    for part in row_blocks(len(column), 1 << 20):
        block = np.asarray(column[part])
        runs += int(np.count_nonzero(np.diff(block, prepend=np.int32(last))))
        last = int(block[-1])
    return runs


def _tally(column: AnyArray | None, names: tuple[str, ...]) -> dict[str, int] | None:
    """Count tokens per name."""
    if column is None:
        return None
    total = np.zeros(len(names), dtype=np.int64)
    for part in row_blocks(len(column), 1 << 20):
        block = np.asarray(column[part])
        named = block[(block >= 0) & (block < len(names))]
        total += np.bincount(named, minlength=len(names))
    return dict(zip(names, total.tolist(), strict=True))


def _sum_steps(trace: RoutingTrace) -> IntArray:
    """Add up the steps of a counts-only trace, int64 [layers, experts]."""
    total = np.zeros((len(trace.layers), trace.experts), dtype=np.int64)
    for part in row_blocks(len(trace.counts), max(1, (1 << 20) // total.size)):
        total += trace.counts[part].sum(axis=0)
    return total


def _stream(trace: RoutingTrace) -> tuple[IntArray, FloatArray | None]:
    """Count experts and overlaps between neighbouring tokens of the same sequence."""
    layers, top_k = len(trace.layers), trace.top_k
    counter = IdCounter(layers, top_k, trace.id_limit, str(trace.path))
    total = np.zeros(counter.shape, dtype=np.int64)
    shared = np.zeros(layers, dtype=np.int64)
    pairs = 0
    rows = max(1, _PAIRS // (layers * top_k))
    for part in row_blocks(trace.tokens, rows):
        # One token more than counted, so that pairs across blocks are seen.
        wide = slice(max(0, part.start - 1), part.stop)
        stored = np.asarray(trace.ids[wide])
        total += counter.count(stored[part.start - wide.start :])
        ids = stored if trace.physical_to_logical is None else trace.logical_ids(wide)
        if trace.sequence is None:
            together = np.ones(len(ids) - 1, dtype=bool)
        else:
            sequence = np.asarray(trace.sequence[wide])
            together = sequence[1:] == sequence[:-1]
        pairs += int(together.sum())
        shared += _shared(ids, together)
        release(trace.ids)
    overlap = shared / (pairs * top_k) if pairs else None
    return to_logical(total, trace.physical_to_logical, trace.experts), overlap


def _shared(ids: AnyArray, together: npt.NDArray[np.bool_]) -> IntArray:
    """Count experts that a token shares with the one before it, int64 [layers]."""
    before, after = ids[:-1], ids[1:]
    hits = np.zeros(after.shape, dtype=bool)
    for turn in range(ids.shape[2]):
        # Every id meets every id of the token before once in top_k turns of the slots.
        hits |= after == np.roll(before, turn, axis=2)
    return np.asarray(hits[together].sum(axis=(0, 2), dtype=np.int64))


def _balance(trace: RoutingTrace, counts: IntArray, overlap: FloatArray | None) -> list[dict[str, Any]]:
    """Turn counts into the per-layer table."""
    rows: list[dict[str, Any]] = []
    for column, layer in enumerate(trace.layers):
        copies = counts[column]
        total = int(copies.sum())
        row: dict[str, Any] = {"layer": layer, "copies": total}
        row |= dict.fromkeys(("max_over_mean", "cv", "entropy"))
        if total:
            mean = total / trace.experts
            share = copies[copies > 0] / total
            most = np.log(trace.experts)
            row["max_over_mean"] = float(copies.max() / mean)
            row["cv"] = float(copies.std() / mean)
            row["entropy"] = float(-(share * np.log(share)).sum() / most) if most else 1.0
        row["overlap"] = None if overlap is None else float(overlap[column])
        rows.append(row)
    return rows
