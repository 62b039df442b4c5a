"""Prefetch by what it would save a layer that GPU, CPU and link share."""

from __future__ import annotations

from pydantic import Field

from moesim.policies.offload.hybrimoe import prefetch_gains
from moesim.policies.prefetch.base import Outlook, PrefetchBase, PrefetchFrame, PrefetchState, Wanted
from moesim.policies.prefetch.common import needed_of
from moesim.policies.prefetch.gate import GateParameters
from moesim.policies.prefetch.given import GivenState


class ImpactParameters(GateParameters):
    """Parameters of impact-driven prefetch."""

    lookahead: int = Field(3, ge=1, le=3, description="layers looked ahead")
    stop_at_first: bool = Field(False, description="look no farther than the first layer that lacks experts")
    candidates: int = Field(
        16, ge=1, description="absent experts of a layer that are weighed, those of most tokens"
    )


class _Impact(GivenState):
    def __init__(self, frame: PrefetchFrame, parameters: ImpactParameters) -> None:
        super().__init__(frame, parameters.by_layer)
        self.parameters = parameters

    def wanted(self, outlook: Outlook) -> Wanted:
        if outlook.layer < 0:
            return []
        worth: dict[tuple[int, int], float] = {}
        kept: Wanted = []
        for distance in range(1, self.parameters.lookahead + 1):
            target = outlook.layer + distance
            if target >= self.frame.layers:
                break
            accuracy = self.parameters.at(distance)
            load = self.predict(outlook, target, accuracy, top=self.parameters.top)
            resident = outlook.resident[target]
            needed = [expert for _, expert in needed_of(outlook, target, list(load))]
            missing = [expert for expert in needed if expert not in resident]
            kept += [(target, expert) for expert in needed if expert in resident]
            for expert, gain in self._gains(outlook, target, load, missing).items():
                if gain > 0:
                    worth[target, expert] = gain
            if self.parameters.stop_at_first and missing:
                break
        return [*kept, *sorted(worth, key=lambda one: -worth[one])]

    def _gains(
        self, outlook: Outlook, target: int, load: dict[int, int], missing: list[int]
    ) -> dict[int, float]:
        if outlook.times is None:
            return {expert: float(load[expert]) for expert in missing}
        resident = [expert for expert in load if expert in outlook.resident[target]]
        absent = [expert for expert in load if expert not in outlook.resident[target]]
        weighed = missing[: self.parameters.candidates]
        return prefetch_gains(resident, absent, load, outlook.times, weighed)


class Impact(PrefetchBase):
    """HybriMoE's impact-driven prefetch."""

    name = "impact"
    summary = (
        "predict the next layers by their gates, at a given accuracy; load first what shortens its layer "
        "most where GPU, CPU and link share it, else the expert of most tokens"
    )
    source = "HybriMoE, arXiv 2504.05897, which gives no accuracies: those of HOBBIT, arXiv 2411.01433"
    given = True
    parameters_type = ImpactParameters

    def start(self, frame: PrefetchFrame) -> PrefetchState:
        """Begin a run."""
        return _Impact(frame, self.parameters)
