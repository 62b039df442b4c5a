"""Import dumps of SGLang's expert distribution recorder, saved as .npz or .json.

SGLang writes .pt files (mode ``stat``: ``logical_count`` [buffered steps, layers, experts], with empty
rows where its ring buffer was not full; modes ``per_pass`` and ``per_token``: ``records``, each with
``global_physical_count`` [layers, physical experts] or ``topk_ids_of_layer`` [layers, tokens, top_k], and
``last_physical_to_logical_map``). Layers are all transformer layers; dense ones stay empty.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from moesim.errors import InputError
from moesim.routing.importers.expert_counts import fold_replicas, logical_counts, mapping_of, write_counts
from moesim.routing.importers.reading import read_any, whole_numbers
from moesim.routing.importers.routed_ids import write_ids

_COUNTS: Final = {
    "logical_count": "logical",
    "physical_count": "physical",
    "global_physical_count": "physical",
}


def import_sglang(
    source: Path,
    target: Path,
    *,
    top_k: int | None = None,
    experts: int | None = None,
    layers: Sequence[int] | None = None,
    first_layer: int = 0,
    model: str = "",
    provenance: str = "",
    licence: str | None = None,
    overwrite: bool = False,
) -> None:
    """Import an SGLang dump: counts as a counts-only trace, ids per token as a trace of tokens.

    Args:
        source: .npz or .json file (.npy is taken as ``logical_count``).
        target: trace to write.
        top_k: experts per token; needed for counts.
        experts: logical experts; needed for ids without a map, checked otherwise.
        layers: transformer layer index of each layer of the dump; default: counted up from ``first_layer``.
        first_layer: transformer layer index of the first.
        model: name of the model.
        provenance: where the data came from.
        licence: licence of the data.
        overwrite: replace a trace that exists.

    Raises:
        InputError: naming the file and the key.
    """
    name = str(source)
    data = read_any(source)
    if isinstance(data, np.ndarray):
        data = {"logical_count": data}
    if not isinstance(data, dict):
        message = "an SGLang dump is an object with 'logical_count', 'physical_count' or 'records'"
        raise InputError(message, name)
    about: dict[str, Any] = {
        "model": model,
        "provenance": provenance or f"SGLang expert distribution, {source.name}",
        "licence": licence,
        "overwrite": overwrite,
    }
    records = data.get("records")
    if records is not None and not (isinstance(records, list) and records and _all_objects(records)):
        message = "'records' must be a list of objects"
        raise InputError(message, name)
    passes: list[dict[str, Any]] = records if records is not None else [data]
    if "topk_ids_of_layer" in passes[0]:
        _import_ids(target, data, passes, experts, layers, first_layer, name, about)
        return
    if top_k is None:
        message = "counts need to know how many experts a token goes to"
        raise InputError(message, name, hint="give the option top_k")
    if records is None:
        counts = logical_counts(data, _COUNTS, experts, name)
    else:
        key = "global_physical_count"
        tables = [record.get(key) for record in passes]
        if any(table is None for table in tables):
            message = f"record {tables.index(None)} has neither '{key}' nor 'topk_ids_of_layer'"
            raise InputError(message, name)
        stacked = whole_numbers(tables, (3,), key, name).astype(np.int64)
        counts = fold_replicas(stacked, mapping_of(data, name), experts, key, name)
    write_counts(
        target,
        counts,
        top_k=top_k,
        experts=experts,
        layers=layers,
        first_layer=first_layer,
        name=name,
        **about,
    )


def _all_objects(values: list[Any]) -> bool:
    return all(isinstance(value, dict) for value in values)


def _import_ids(
    target: Path,
    data: dict[str, Any],
    passes: list[dict[str, Any]],
    experts: int | None,
    layers: Sequence[int] | None,
    first_layer: int,
    name: str,
    about: dict[str, Any],
) -> None:
    """Import ids per token; a forward pass becomes a sequence."""
    blocks = []
    for number, record in enumerate(passes):
        if "topk_ids_of_layer" not in record:
            message = f"record {number} has no 'topk_ids_of_layer'"
            raise InputError(message, name)
        ids = whole_numbers(record["topk_ids_of_layer"], (3,), "topk_ids_of_layer", name)
        blocks.append(np.moveaxis(ids, 0, 1))
    has_map = any("physical_to_logical_map" in key for key in data)
    mapping = mapping_of(data, name) if has_map else None
    if experts is None:
        if mapping is None:
            message = "ids without a map need to know how many experts there are"
            raise InputError(message, name, hint="give the option experts")
        experts = int(mapping.max(initial=0)) + 1
    write_ids(
        target,
        blocks,
        experts=experts,
        layers=layers,
        first_layer=first_layer,
        mapping=mapping,
        name=name,
        **about,
    )
