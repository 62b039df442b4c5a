"""One prediction of all layers before the first."""

from __future__ import annotations

from pydantic import Field

from moesim.errors import InputError
from moesim.policies.base import Parameters
from moesim.policies.prefetch.base import Outlook, PrefetchBase, PrefetchFrame, PrefetchState, Wanted
from moesim.policies.prefetch.common import needed_of
from moesim.policies.prefetch.given import GivenState
from moesim.policies.quantities import Seconds


class OneShotParameters(Parameters):
    """Parameters of the one-shot predictor."""

    accuracy: float = Field(
        0.9,
        ge=0,
        le=1,
        description="share of experts foretold right in a layer",
        json_schema_extra={"tune": False},
    )
    by_layer: tuple[float, ...] = Field(
        (), description="accuracy of each layer, from the first on; empty: the same in all"
    )
    predict_s: Seconds = Field(
        0.0, ge=0, description="what the prediction of an iteration takes where it is not hidden (s)"
    )


class _AllLayers(GivenState):
    def __init__(self, frame: PrefetchFrame, accuracy: tuple[float, ...]) -> None:
        super().__init__(frame)
        self.accuracy = accuracy

    def wanted(self, outlook: Outlook) -> Wanted:
        """Return what the prediction still lacks, layer by layer."""
        found: Wanted = []
        for target in range(outlook.layer + 1, self.frame.layers):
            load = self.predict(outlook, target, self.accuracy[target], made_at=-1)
            found += needed_of(outlook, target, list(load))
        return found


class OneShot(PrefetchBase):
    """ExpertFlow's routing path predictor."""

    name = "oneshot"
    summary = "before the first layer predict all layers at once, at a given accuracy; load the nearest first"
    source = (
        "ExpertFlow, arXiv 2410.17954: above 0.90 in the predictor's domain, 0.80 to 0.90 outside; there it "
        "runs beside the batch before, so it costs nothing unless told"
    )
    given = True
    parameters_type = OneShotParameters

    def start(self, frame: PrefetchFrame) -> PrefetchState:
        """Begin a run.

        Raises:
            InputError: there is not one accuracy per layer, or one is no share.
        """
        by_layer = self.parameters.by_layer
        if by_layer and (len(by_layer) != frame.layers or not all(0 <= a <= 1 for a in by_layer)):
            message = f"by_layer has {len(by_layer)} accuracies, expected {frame.layers}, each from 0 to 1"
            raise InputError(message, hint="give one per MoE layer, or accuracy alone")
        return _AllLayers(frame, by_layer or (self.parameters.accuracy,) * frame.layers)

    def seconds(self, layers: int) -> float:
        """Return what the one prediction of an iteration takes."""
        return float(self.parameters.predict_s)
