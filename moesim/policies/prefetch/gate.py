"""The gates of the next layers, fed with the input of the present one."""

from __future__ import annotations

from pydantic import Field

from moesim.policies.prefetch.base import Outlook, PrefetchBase, PrefetchFrame, PrefetchState, Wanted
from moesim.policies.prefetch.common import needed_of
from moesim.policies.prefetch.given import GivenParameters, GivenState


class GateParameters(GivenParameters):
    """Parameters of gate reuse."""

    accuracy: float = Field(
        0.96,
        ge=0,
        le=1,
        description="share of experts foretold right one layer ahead",
        json_schema_extra={"tune": False},
    )
    accuracy_far: float = Field(
        0.9, ge=0, le=1, description="the same two or three layers ahead", json_schema_extra={"tune": False}
    )
    lookahead: int = Field(1, ge=1, le=3, description="layers looked ahead")
    top: int | None = Field(None, ge=1, description="of a token's experts, how many are loaded; none: all")
    stop_at_first: bool = Field(True, description="look no farther than the first layer that lacks experts")

    def at(self, distance: int) -> float:
        """Return the accuracy of a prediction over so many layers."""
        return self.accuracy if distance == 1 else self.accuracy_far


class _Gates(GivenState):
    def __init__(self, frame: PrefetchFrame, parameters: GateParameters) -> None:
        super().__init__(frame, parameters.by_layer)
        self.parameters = parameters

    def wanted(self, outlook: Outlook) -> Wanted:
        if outlook.layer < 0:
            return []
        found: Wanted = []
        for distance in range(1, self.parameters.lookahead + 1):
            target = outlook.layer + distance
            if target >= self.frame.layers:
                break
            accuracy = self.parameters.at(distance)
            experts = list(self.predict(outlook, target, accuracy, top=self.parameters.top))
            found += needed_of(outlook, target, experts)
            resident = outlook.resident[target]
            if self.parameters.stop_at_first and any(expert not in resident for expert in experts):
                break
        return found


class Gate(PrefetchBase):
    """Next-layer gates on the present hidden state."""

    name = "gate"
    summary = (
        "load what the gates of the next layers say of the present hidden state, at a given accuracy; "
        "look farther only while nothing is missing"
    )
    source = (
        "Mixtral-offloading, arXiv 2312.17238 (one layer); HOBBIT, arXiv 2411.01433, section 3.3 (rule to "
        "stop; 96 % of Mixtral's first experts one layer ahead, about 90 % two or three)"
    )
    given = True
    parameters_type = GateParameters

    def start(self, frame: PrefetchFrame) -> PrefetchState:
        """Begin a run."""
        return _Gates(frame, self.parameters)
