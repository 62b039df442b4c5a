"""Write recorded ids per token that may hold padding and dense layers: what id importers share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.errors import InputError
from moesim.routing.writer import TraceWriter

Ids = npt.NDArray[np.integer[Any]]


def recorded_layers(blocks: Sequence[Ids]) -> npt.NDArray[np.bool_]:
    """Mark the layers that really were recorded.

    An engine that logs all layers leaves one number (-1 or 0) in every slot of a dense one; a router
    never picks one expert twice, so with two slots or more such a layer cannot be a real one.
    """
    kept = np.zeros(blocks[0].shape[1], dtype=bool)
    for ids in blocks:
        known = ids >= 0
        lowest = np.where(known, ids, np.iinfo(np.int16).max).min(axis=(0, 2), initial=np.iinfo(np.int16).max)
        highest = ids.max(axis=(0, 2), initial=-1)
        kept |= (highest >= 0) & ((lowest != highest) | (ids.shape[2] == 1))
    return kept


def write_ids(
    target: Path,
    blocks: Sequence[Ids],
    *,
    experts: int,
    layers: Sequence[int] | None,
    first_layer: int,
    mapping: Ids | None,
    name: str,
    **fields: Any,
) -> None:
    """Write sequences of ids [tokens, layers, top_k]; rows of padding (-1) and dense layers are left out.

    Args:
        target: trace to write.
        blocks: one array per sequence.
        experts: logical experts.
        layers: transformer layer index of each layer; None counts up from ``first_layer``.
        first_layer: index of the first layer.
        mapping: logical expert of each physical one, [layers, physical], if ids are physical.
        name: file for messages.
        fields: further arguments of the writer.

    Raises:
        InputError: arrays that do not belong together, or a token with some ids missing.
    """
    if not blocks:
        message = "there is not a single sequence"
        raise InputError(message, name)
    shape = blocks[0].shape[1:]
    for number, ids in enumerate(blocks):
        if ids.shape[1:] != shape:
            message = f"sequence {number} has {ids.shape[1:]} layers and ids, sequence 0 has {shape}"
            raise InputError(message, name)
    if layers is not None and len(layers) != shape[0]:
        message = f"{len(layers)} layers were given, the dump has {shape[0]}"
        raise InputError(message, name)
    if mapping is not None and len(mapping) != shape[0]:
        message = f"the map has {len(mapping)} layers, the dump has {shape[0]}"
        raise InputError(message, name)
    kept = recorded_layers(blocks)
    if not kept.any():
        message = "no layer holds any expert ids"
        raise InputError(message, name)
    indices = np.asarray(layers if layers is not None else range(first_layer, first_layer + shape[0]))
    with TraceWriter(
        target,
        experts=experts,
        top_k=shape[1],
        layers=indices[kept].tolist(),
        ids_kind="logical" if mapping is None else "physical",
        physical_to_logical=None if mapping is None else mapping[kept],
        **fields,
    ) as writer:
        for number, ids in enumerate(blocks):
            for part in _without_padding(ids[:, kept], number, name):
                writer.append(part, sequence=number)


def _without_padding(ids: Ids, sequence: int, name: str) -> Iterable[Ids]:
    """Yield the tokens of a sequence without those that are all -1."""
    missing = ids == -1
    padding = missing.all(axis=(1, 2))
    partly = missing.any(axis=(1, 2)) & ~padding
    if partly.any():
        token = int(np.flatnonzero(partly)[0])
        message = f"sequence {sequence}, token {token}: some of its expert ids are missing (-1)"
        raise InputError(message, name)
    real = ids[~padding]
    for start in range(0, len(real), 4096):
        yield real[start : start + 4096]
