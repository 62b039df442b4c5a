"""Check what a recorder hands over before it becomes a column of a trace."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.errors import InputError, unknown_name
from moesim.routing.format import PHASES, AnyArray

Ids = npt.NDArray[np.integer[Any]]


def check_ids(values: npt.ArrayLike, item: tuple[int, int], limit: int, start: int, name: str) -> Ids:
    """Check a block of expert ids.

    Args:
        values: whole numbers [n, layers, top_k].
        item: (layers, top_k) of the trace.
        limit: ids must be below this.
        start: number of the block's first token, for messages.
        name: what messages call the trace.

    Raises:
        InputError: another shape or type, an id out of range, or an expert twice in one token.
    """
    ids = np.asarray(values)
    if ids.dtype.kind not in "iu" and ids.size:
        message = f"expert ids must be whole numbers, got {ids.dtype}"
        raise InputError(message, name)
    if ids.ndim != 3 or ids.shape[1:] != item:
        message = f"expert ids must have the shape [tokens, {item[0]} layers, {item[1]} ids], got {ids.shape}"
        raise InputError(message, name)
    if ids.size == 0:
        return ids.astype(np.uint8)
    if int(ids.min()) < 0 or int(ids.max()) >= limit:
        token, layer, slot = (int(axis) for axis in np.argwhere((ids < 0) | (ids >= limit))[0])
        message = (
            f"token {start + token}, layer column {layer}: expert id {int(ids[token, layer, slot])} "
            f"is outside 0..{limit - 1}"
        )
        raise InputError(message, name)
    if item[1] > 1:
        ordered = np.sort(ids, axis=2)
        twice = ordered[:, :, 1:] == ordered[:, :, :-1]
        if twice.any():
            token, layer, slot = (int(axis) for axis in np.argwhere(twice)[0])
            message = (
                f"token {start + token}, layer column {layer}: "
                f"expert {int(ordered[token, layer, slot])} is selected twice"
            )
            raise InputError(message, name)
    return ids


def check_weights(
    values: npt.ArrayLike, shape: tuple[int, ...], scale: float | None, start: int, name: str
) -> AnyArray:
    """Check gate weights and bring them to the stored type.

    Returns:
        float16, or uint16 multiples of ``scale`` when that is given.

    Raises:
        InputError: another shape, NaN, infinite, negative, or too large for the stored type.
    """
    weights = np.asarray(values)
    if weights.dtype.kind not in "iuf" or weights.shape != shape:
        message = f"gate weights must be numbers of shape {shape}, got {weights.dtype} of {weights.shape}"
        raise InputError(message, name)
    scaled = np.rint(weights / scale) if scale is not None else weights
    largest = 65535.0 if scale is not None else float(np.finfo(np.float16).max)
    wrong = ~((weights >= 0) & (scaled <= largest))
    if wrong.any():
        token, layer, slot = (int(axis) for axis in np.argwhere(wrong)[0])
        message = (
            f"token {start + token}, layer column {layer}: gate weight {float(weights[token, layer, slot])} "
            f"is not a number from 0 to {largest * (scale or 1.0):g}"
        )
        raise InputError(message, name)
    return scaled.astype(np.uint16 if scale is not None else np.float16)


def _per_token(values: npt.ArrayLike, rows: int, what: str) -> Ids:
    """Return whole numbers, one per token."""
    array = np.asarray(values)
    if array.dtype.kind not in "iu" or (array.ndim != 0 and array.shape != (rows,)):
        message = f"the {what} column needs one whole number per token ({rows}) or one for all"
        raise InputError(message, hint=f"got {array.dtype} of shape {array.shape}")
    return np.broadcast_to(array, (rows,))


def _within(array: Ids, limit: int, what: str) -> Ids:
    if array.size and (int(array.min()) < 0 or int(array.max()) >= limit):
        message = f"the {what} column must stay within 0..{limit - 1}"
        raise InputError(message, hint=f"found {int(array.min())}..{int(array.max())}")
    return array


def sequence_column(values: npt.ArrayLike, rows: int) -> AnyArray:
    """Return sequence numbers, int32 [rows]."""
    return _within(_per_token(values, rows, "sequence"), 1 << 31, "sequence").astype(np.int32)


def phase_column(values: npt.ArrayLike | str, rows: int) -> AnyArray:
    """Return phases, uint8 [rows]: 0 prefill, 1 decode; a name stands for all tokens."""
    if isinstance(values, str):
        if values not in PHASES:
            raise unknown_name("phase", values, PHASES)
        values = PHASES.index(values)
    return _within(_per_token(values, rows, "phase"), len(PHASES), "phase").astype(np.uint8)


def task_column(values: npt.ArrayLike | str, rows: int, tasks: Sequence[str]) -> AnyArray:
    """Return task numbers, int16 [rows]; a name stands for all tokens."""
    if isinstance(values, str):
        if values not in tasks:
            raise unknown_name("task", values, tasks)
        values = tasks.index(values)
    if not tasks:
        message = "a task column needs the names of the tasks"
        raise InputError(message)
    return _within(_per_token(values, rows, "task"), len(tasks), "task").astype(np.int16)
