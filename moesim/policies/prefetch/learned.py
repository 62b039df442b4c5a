"""A small trained network per layer that predicts a layer some way ahead."""

from __future__ import annotations

from pydantic import Field

from moesim.policies.prefetch.base import Outlook, PrefetchBase, PrefetchFrame, PrefetchState, Wanted
from moesim.policies.prefetch.common import needed_of
from moesim.policies.prefetch.given import GivenParameters, GivenState
from moesim.policies.quantities import Seconds


class LearnedParameters(GivenParameters):
    """Parameters of learned predictors."""

    accuracy: float = Field(
        0.847, ge=0, le=1, description="share of experts foretold right", json_schema_extra={"tune": False}
    )
    stride: int = Field(2, ge=1, description="layers ahead that are predicted")
    predict_s: Seconds = Field(200e-6, ge=0, description="what a prediction takes (s)")
    hidden: bool = Field(
        True,
        description="predictions run beside the layer; else they hold it up",
        json_schema_extra={"tune": False},
    )


class _Strided(GivenState):
    def __init__(self, frame: PrefetchFrame, parameters: LearnedParameters) -> None:
        super().__init__(frame, parameters.by_layer)
        self.parameters = parameters

    def wanted(self, outlook: Outlook) -> Wanted:
        """Return what earlier predictions still lack of nearer layers, then the newest prediction."""
        stride = self.parameters.stride
        found: Wanted = []
        for target in range(max(outlook.layer + 1, stride), outlook.layer + stride + 1):
            if target < self.frame.layers:
                load = self.predict(outlook, target, self.parameters.accuracy, made_at=target - stride)
                found += needed_of(outlook, target, list(load))
        return found


class Learned(PrefetchBase):
    """Learned predictors, a stride ahead."""

    name = "learned"
    summary = (
        "load what a trained network per layer predicts a stride of layers ahead, at a given accuracy; "
        "the first layers of an iteration have no prediction"
    )
    source = "ProMoE, arXiv 2410.22134: 84.7 % accuracy, 200 us per prediction on the CPU, stride 2"
    given = True
    parameters_type = LearnedParameters

    def start(self, frame: PrefetchFrame) -> PrefetchState:
        """Begin a run."""
        return _Strided(frame, self.parameters)

    def seconds(self, layers: int) -> float:
        """Return what the predictions of an iteration take, nothing if they are hidden."""
        return 0.0 if self.parameters.hidden else float(self.parameters.predict_s) * layers
