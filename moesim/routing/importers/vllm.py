"""Import what vLLM reports about experts: counts of its load balancer, or routed experts of requests.

Counts: .npy or .json, [steps, layers, experts] or [layers, experts]; in JSON also an object whose keys are
layer indices and whose values are lists per expert, or an object with ``expert_load`` (logical) or
``expert_load_pass`` (physical, [layers, physical experts], with ``physical_to_logical_map``).
Routed experts (``--enable-return-routed-experts``): ``routed_experts`` [tokens, layers, top_k] in .npz or
.json, or a list of requests that each have it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from moesim.errors import InputError
from moesim.routing.importers.expert_counts import logical_counts, mapping_of, write_counts
from moesim.routing.importers.reading import read_any, whole_numbers
from moesim.routing.importers.routed_ids import write_ids

_COUNTS: Final = {
    "expert_load": "logical",
    "logical_count": "logical",
    "counts": "logical",
    "expert_load_pass": "physical",
    "physical_count": "physical",
}


def import_vllm(
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
    """Import vLLM expert counts or routed experts.

    Args:
        source: .npy (counts), .npz or .json file.
        target: trace to write.
        top_k: experts per token; needed for counts.
        experts: logical experts; needed for routed experts, checked for counts.
        layers: transformer layer index of each layer of the dump; default: counted up from ``first_layer``.
        first_layer: transformer layer index of the first (vLLM counts only MoE layers).
        model: name of the model.
        provenance: where the data came from.
        licence: licence of the data.
        overwrite: replace a trace that exists.

    Raises:
        InputError: naming the file and the key.
    """
    name = str(source)
    data = read_any(source)
    about: dict[str, Any] = {
        "model": model,
        "provenance": provenance or f"vLLM, {source.name}",
        "licence": licence,
        "overwrite": overwrite,
    }
    requests = _requests(data)
    if requests is not None:
        if experts is None:
            message = "routed experts need to know how many experts there are"
            raise InputError(message, name, hint="give the option experts")
        blocks = [whole_numbers(ids, (3,), f"routed_experts of request {i}", name) for i, ids in requests]
        has_map = isinstance(data, dict) and "physical_to_logical_map" in data
        write_ids(
            target,
            blocks,
            experts=experts,
            layers=layers,
            first_layer=first_layer,
            mapping=mapping_of(data, name) if has_map else None,
            name=name,
            **about,
        )
        return
    if top_k is None:
        message = "counts need to know how many experts a token goes to"
        raise InputError(message, name, hint="give the option top_k")
    if isinstance(data, dict) and data and all(str(key).isdecimal() for key in data):
        if layers is None:
            layers = sorted(int(key) for key in data)
        data = [data[key] for key in sorted(data, key=int)]
    if not isinstance(data, dict):
        data = {"counts": data}
    write_counts(
        target,
        logical_counts(data, _COUNTS, experts, name),
        top_k=top_k,
        experts=experts,
        layers=layers,
        first_layer=first_layer,
        name=name,
        **about,
    )


def _requests(data: Any) -> list[tuple[int, Any]] | None:
    """Return the routed experts of each request, or None when the file has counts."""
    if isinstance(data, dict) and "routed_experts" in data:
        return [(0, data["routed_experts"])]
    if isinstance(data, list) and data and all(isinstance(item, dict) for item in data):
        return [(number, item.get("routed_experts", [])) for number, item in enumerate(data)]
    return None
