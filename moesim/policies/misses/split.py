"""HybriMoE's split of a layer's experts between the device, its link and the CPU."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from moesim.policies.base import Parameters
from moesim.policies.misses.base import Choice, MissBase, Needed, missing
from moesim.policies.offload.hybrimoe import split_as_paper, split_as_repository


class HybriMoeParameters(Parameters):
    """Parameters of HybriMoE's split."""

    variant: Literal["paper", "repository"] = Field(
        "paper",
        description="three timelines as in the paper; or the published code, whose prompts use no CPU",
    )


class HybriMoe(MissBase):
    """HybriMoE's hybrid scheduling."""

    name = "hybrimoe"
    summary = "simulate device, link and CPU; each takes its next expert when it is free"
    source = "HybriMoE, arXiv 2504.05897, section 4.2; repository of the authors"
    uses_cpu = True
    parameters_type = HybriMoeParameters

    def choose(self, needed: Needed) -> Choice:
        """Decide for one layer."""
        absent = missing(needed)
        as_paper = self.parameters.variant == "paper"
        if not needed.experts or (needed.prefill and not as_paper):
            return Choice(tuple(absent))
        load = dict(zip(needed.experts, needed.tokens, strict=True))
        there = [expert for expert in needed.experts if expert not in absent]
        if as_paper:
            coming = needed.coming
            ready = [expert for expert in there if expert not in coming]
            split = split_as_paper(ready, absent, load, needed.times, needed.shared, coming)
        else:
            split = split_as_repository(there, absent, load, needed.times)
        # In the paper's rules the CPU may take an expert that has been loaded; then nobody needs the copy.
        return Choice(tuple(expert for expert in split.loaded if expert not in split.cpu), split.cpu)
