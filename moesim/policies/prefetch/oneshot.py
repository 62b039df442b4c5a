"""One prediction of all layers before the first."""

from __future__ import annotations

from pydantic import Field

from moesim.policies.prefetch.base import Outlook, PrefetchBase, PrefetchFrame, PrefetchState, Wanted
from moesim.policies.prefetch.common import needed_of
from moesim.policies.prefetch.given import GivenParameters, GivenState
from moesim.policies.quantities import Seconds


class OneShotParameters(GivenParameters):
    """Parameters of the one-shot predictor."""

    accuracy: float = Field(
        0.9,
        ge=0,
        le=1,
        description="share of experts foretold right in a layer",
        json_schema_extra={"tune": False},
    )
    predict_s: Seconds = Field(
        0.0, ge=0, description="what the prediction of an iteration takes where it is not hidden (s)"
    )


class _AllLayers(GivenState):
    def __init__(self, frame: PrefetchFrame, parameters: OneShotParameters) -> None:
        super().__init__(frame, parameters.by_layer)
        self.accuracy = parameters.accuracy

    def wanted(self, outlook: Outlook) -> Wanted:
        """Return what the prediction still lacks, layer by layer."""
        found: Wanted = []
        for target in range(outlook.layer + 1, self.frame.layers):
            load = self.predict(outlook, target, self.accuracy, made_at=-1)
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
        return _AllLayers(frame, self.parameters)

    def seconds(self, layers: int) -> float:
        """Return what the one prediction of an iteration takes."""
        return float(self.parameters.predict_s)
