"""LLEP as a dispatch policy: when to plan, and plans as columns of arrays."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from pydantic import Field, model_validator

from moesim.policies.base import ClusterView, Parameters
from moesim.policies.dispatch.llep import capacity_of, spill
from moesim.policies.dispatch.spilling import Spilt, spilling_plan
from moesim.policies.plan import DispatchPlan, Placement
from moesim.policies.quantities import Seconds
from moesim.routing.load import Load

_SYMBOLS = {"m": "min_tokens_per_gemm", "lambda": "threshold"}


class LlepParameters(Parameters):
    """Parameters of LLEP; ``m`` and ``lambda``, the paper's symbols, are understood too."""

    alpha: float = Field(
        default=1.0,
        gt=0,
        json_schema_extra={"tune": [1.0, 4.0, "log"]},
        description="copies that a device may compute, in even shares (the paper's runs: 1.0)",
    )
    min_tokens_per_gemm: int = Field(
        default=1024,
        ge=0,
        json_schema_extra={"tune": [1, 16384, "log"]},
        description="smallest slice worth sending away, unless it ends the expert (m)",
    )
    threshold: float = Field(
        default=1.3,
        ge=0,
        json_schema_extra={"tune": [1.0, 4.0, "log"]},
        description="plan where the busiest device has this many times the mean load; 0 always (lambda)",
    )
    planning_per_expert_s: Seconds = Field(
        default=45e-6,
        ge=0,
        description="planning time per expert: two scalars read back from the GPU at 20 us, 5 us of Python",
    )
    planning_fixed_s: Seconds = Field(
        default=0.0, ge=0, description="planning time besides that of the experts"
    )

    @model_validator(mode="before")
    @classmethod
    def _accept_symbols(cls, data: Any) -> Any:
        """Understand the paper's symbols."""
        if not isinstance(data, dict):
            return data
        for symbol, word in _SYMBOLS.items():
            if symbol in data and word in data:
                message = f"'{symbol}' and '{word}' are the same parameter"
                raise ValueError(message)
        return {_SYMBOLS.get(key, key): value for key, value in data.items()}


@dataclass(frozen=True)
class Llep:
    """Slices of hot experts go to the least loaded devices, with a temporary copy of the weights.

    Every expert has one home: its slot, or the first of its slots. Other replicas serve as helpers that
    need no weights sent.
    """

    parameters: LlepParameters = field(default_factory=LlepParameters)
    name: ClassVar[str] = "llep"
    summary: ClassVar[str] = "overloaded devices hand token slices and weights to the least loaded"
    needs: ClassVar[str] = "counts of the step by source"
    source: ClassVar[str] = "LLEP (arXiv 2601.17111); SalesforceAIResearch/LeastLoadedEP 0349746"
    exact: ClassVar[bool] = True
    parameters_type: ClassVar[type[Parameters]] = LlepParameters

    def plan(self, load: Load, placement: Placement, view: ClusterView) -> DispatchPlan:
        """Plan all MoE layers of one step.

        Raises:
            InputError: load and placement differ in layers, devices or experts.
        """
        alpha, m = self.parameters.alpha, self.parameters.min_tokens_per_gemm

        def hand_over(counts: list[int], homes: list[int], order: list[int], loads: list[int]) -> Spilt:
            return spill(counts, homes, order, loads, capacity_of(sum(loads), len(loads), alpha), m)

        return spilling_plan(load, placement, self.parameters.threshold, hand_over)

    def planning_seconds(self, experts: int, devices: int) -> float:
        """Return the time to plan one layer (s), charged only where a plan is made."""
        return self.parameters.planning_fixed_s + self.parameters.planning_per_expert_s * experts
