"""Rules that look at each expert by itself: load it, compute it on the CPU, or whichever is faster."""

from __future__ import annotations

from pydantic import Field

from moesim.policies.base import Parameters
from moesim.policies.misses.base import Choice, MissBase, Needed, missing, slower_than_cpu
from moesim.policies.offload.fiddler import cpu_is_faster


class Load(MissBase):
    """Load every needed expert that is absent."""

    name = "load"
    summary = "load what is missing; the layer waits"
    source = "baseline (MoE-OnDemand)"

    def choose(self, needed: Needed) -> Choice:
        """Decide for one layer."""
        return Choice(tuple(missing(needed)))


class WholeLayer(MissBase):
    """Load every absent expert of the layer, needed or not."""

    name = "whole_layer"
    summary = "load all experts of the layer, needed or not, as frameworks do that know layers only"
    source = "Accelerate, DeepSpeed ZeRO-Inference; SE-MoE (arXiv 2205.10034)"
    whole = True

    def choose(self, needed: Needed) -> Choice:
        """Decide for one layer."""
        wanted = missing(needed)
        return Choice((*wanted, *(expert for expert in needed.absent if expert not in wanted)))


class CpuParameters(Parameters):
    """Parameters of computing misses on the CPU."""

    prefill: bool = Field(True, description="also in prompts; otherwise prompts load what is missing")


class Cpu(MissBase):
    """Compute every absent expert on the CPU; nothing is ever loaded."""

    name = "cpu"
    summary = "compute what is missing on the CPU and load nothing"
    source = "kTransformers (SOSP'25), llama.cpp, HOBBIT's cooperative mode (arXiv 2411.01433)"
    uses_cpu = True
    parameters_type = CpuParameters

    def choose(self, needed: Needed) -> Choice:
        """Decide for one layer."""
        absent = tuple(missing(needed))
        if needed.prefill and not self.parameters.prefill:
            return Choice(absent)
        return Choice((), (*absent, *slower_than_cpu(needed)))


class Fiddler(MissBase):
    """Load an expert or compute it on the CPU, whichever takes less."""

    name = "fiddler"
    summary = "compute a missing expert on the CPU if that takes no longer than loading and computing it"
    source = "Fiddler, arXiv 2402.07033"
    uses_cpu = True

    def choose(self, needed: Needed) -> Choice:
        """Decide for one layer."""
        cpu = slower_than_cpu(needed)
        loads: list[int] = []
        for expert, tokens, there in zip(needed.experts, needed.tokens, needed.there, strict=True):
            if not there:
                faster = cpu_is_faster(needed.cpu(tokens), needed.gpu(tokens), needed.load)
                (cpu if faster else loads).append(expert)
        return Choice(tuple(loads), tuple(cpu))
