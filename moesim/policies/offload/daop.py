"""DAOP's decisions for one sequence (arXiv 2501.10375)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Ahead:
    """What is done for the next layer of one token.

    Attributes:
        gpu: experts that the layer computes on the GPU, by score falling.
        early: experts that the CPU computes one layer early, from the hidden state of now.
        replaced: the expert that gave way to a resident one of lower score; None where none did.
    """

    gpu: tuple[int, ...]
    early: tuple[int, ...]
    replaced: int | None = None


def plan_next_layer(scores: Sequence[float], resident: Collection[int], top_k: int = 2) -> Ahead:
    """Say who computes the predicted experts of the next layer.

    Residents run on the GPU, absent ones on the CPU a layer early. If all are absent and there are two or
    more, the one of lowest score gives way to the resident of highest score, where there is one; that
    changes the output of the model, as do early computations. Which one gives way is our reading.

    Args:
        scores: predicted router scores of the layer's experts; equal ones: the lower number first.
        resident: its experts in GPU memory.
        top_k: experts per token.
    """
    order = sorted(range(len(scores)), key=lambda expert: -scores[expert])
    predicted, others = order[:top_k], order[top_k:]
    gpu = tuple(expert for expert in predicted if expert in resident)
    early = tuple(expert for expert in predicted if expert not in resident)
    stand_in = next((expert for expert in others if expert in resident), None)
    if gpu or len(early) < 2 or stand_in is None:
        return Ahead(gpu, early)
    return Ahead((stand_in,), early[:-1], early[-1])


def swaps_after_prompt(uses: Sequence[int], resident: Collection[int]) -> list[tuple[int, int]]:
    """Return which absent expert takes the place of which resident one after a prompt, hottest first.

    The most used absent expert of the layer goes for the least used resident, as long as it was used more.

    Args:
        uses: of each expert of a layer in the prompt.
        resident: its experts in GPU memory.
    """
    coming = sorted((e for e in range(len(uses)) if e not in resident), key=lambda e: -uses[e])
    going = sorted(resident, key=lambda e: (uses[e], e))
    return [(new, old) for new, old in zip(coming, going, strict=False) if uses[new] > uses[old]]
