"""A cache through which whole layers stream."""

from __future__ import annotations

from moesim.policies.cache.base import CacheBase, CacheFrame, CacheState
from moesim.policies.cache.usage import Fld


class Stream(CacheBase):
    """Buffers of layers, one behind the other."""

    name = "stream"
    summary = "every expert leaves when its layer is done: buffers of a layer-wise framework"
    source = "Accelerate, DeepSpeed ZeRO-Inference; SE-MoE's ring of buffers, arXiv 2205.10034"
    keeps = "passing"

    def start(self, frame: CacheFrame) -> CacheState:
        """Begin a replay; where room is short before a layer is done, the layer that comes last gives way."""
        return Fld().start(frame)
