"""Whole layers streamed in order."""

from __future__ import annotations

from pydantic import Field

from moesim.errors import InputError
from moesim.policies.base import Parameters
from moesim.policies.prefetch.base import Ints, Outlook, PrefetchBase, PrefetchFrame, PrefetchState, Wanted
from moesim.policies.prefetch.common import needed_of


class LayersParameters(Parameters):
    """Parameters of layer streaming."""

    ahead: int = Field(1, ge=1, description="layers that are loaded ahead, on into the next iteration")


class _Stream:
    def __init__(self, frame: PrefetchFrame, ahead: int) -> None:
        self.experts = list(range(frame.experts))
        self.ahead = ahead

    def reset(self) -> None:
        pass

    def see(self, layer: int, ids: Ints) -> None:
        pass

    def wanted(self, outlook: Outlook) -> Wanted:
        found: Wanted = []
        for target in range(outlook.layer + 1, outlook.layer + 1 + self.ahead):
            found += needed_of(outlook, target, self.experts)
        return found


class Layers(PrefetchBase):
    """Layer streaming."""

    name = "layers"
    summary = "load all experts of the next layers in order, whoever needs them, on into the next iteration"
    source = (
        "Accelerate, DeepSpeed ZeRO-Inference; SE-MoE, arXiv 2205.10034 (a ring of two layers is ahead = 1)"
    )
    parameters_type = LayersParameters

    def start(self, frame: PrefetchFrame) -> PrefetchState:
        """Begin a run.

        Raises:
            InputError: it would be ahead by more than an iteration.
        """
        if self.parameters.ahead > frame.layers:
            message = f"ahead is {self.parameters.ahead}, but the model has {frame.layers} MoE layers"
            raise InputError(message, hint=f"at most {frame.layers}")
        return _Stream(frame, self.parameters.ahead)
