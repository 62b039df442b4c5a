"""ExFlow: experts of all layers where the tokens already are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from moesim.policies.base import ClusterView, Parameters
from moesim.policies.placement.affinity import Chain, search
from moesim.policies.placement.affinity_exact import best_chain
from moesim.policies.placement.layout import near_worth, past_of, slots_of
from moesim.policies.plan import Placement


class ExflowParameters(Parameters):
    """Parameters of ExFlow."""

    near: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="worth of a next expert in the same node, of one on the same device being 1; by default"
        " the transfer time that it saves, 1 - bandwidth between nodes / inside",
    )


@dataclass(frozen=True)
class Exflow:
    """Experts of all layers placed so that a token's next expert is likely on its device, or in its node.

    Every device holds as many experts of a layer as the others, give or take one. The integer program is
    solved to the end where a layer can be placed in few ways (8 experts on up to 8 devices); else layers
    are placed anew in turn, each exactly, until none can be bettered.
    """

    parameters: ExflowParameters = field(default_factory=ExflowParameters)
    name: ClassVar[str] = "exflow"
    summary: ClassVar[str] = "experts that follow each other on the same device, else in the same node"
    needs: ClassVar[str] = "recorded tokens"
    source: ClassVar[str] = "ExFlow (arXiv 2401.08383)"
    parameters_type: ClassVar[type[Parameters]] = ExflowParameters

    def place(self, statistics: npt.NDArray[np.int64], view: ClusterView) -> Placement:
        """Place experts by which of them follow each other.

        Args:
            statistics: past copies per expert, int64 [layers, experts].
            view: the machine.
        """
        chain = self.chain(statistics, view)
        best = best_chain(chain)
        device_of = search(chain) if best is None else best
        total = float(chain.onward.sum())
        notes: tuple[str, ...] = ()
        if total > 0:
            same = Chain(chain.onward, chain.node_of, 0.0).score(device_of) / total
            near = Chain(chain.onward, chain.node_of, 1.0).score(device_of) / total
            how = "optimal" if best is not None else "by local search"
            notes = (
                f"exflow: {100 * same:.1f} % of next experts on the same device, {100 * near:.1f} % in"
                f" the same node ({how})",
            )
        return Placement(slots_of(device_of, view.devices), view.experts, notes)

    def chain(self, statistics: npt.NDArray[np.int64], view: ClusterView) -> Chain:
        """Return what is maximised: transitions of the past, and what they are worth on this machine."""
        near = near_worth(view) if self.parameters.near is None else self.parameters.near
        return Chain(past_of(statistics, view).onward, view.node_of, near)
