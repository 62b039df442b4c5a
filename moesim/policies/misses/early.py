"""DAOP: experts that are foretold and absent run on the CPU one layer early."""

from __future__ import annotations

import zlib

from pydantic import Field

from moesim.policies.base import Parameters
from moesim.policies.misses.base import Choice, MissBase, Needed, missing


class DaopParameters(Parameters):
    """Parameters of DAOP."""

    accuracy: float = Field(
        0.8411, ge=0, le=1, description="share of absent experts that are foretold one layer ahead"
    )


def luck(needed: Needed, expert: int) -> float:
    """Return a number from 0 to 1 that looks random and depends on pass, layer and expert only."""
    return zlib.crc32(f"{needed.iteration} {needed.layer} {expert}".encode()) / 2**32


class Daop(MissBase):
    """DAOP's early experts."""

    name = "daop"
    summary = (
        "prompts load what is missing; decoding computes it on the CPU, as far as foretold one layer early "
        "from "
        "the hidden state of then, which changes the output"
    )
    source = (
        "DAOP, arXiv 2501.10375 (accuracy over one layer 84.11 %); that a resident expert stands in where "
        "all are "
        "absent needs scores of experts that were not chosen, and is left out"
    )
    uses_cpu = True
    exact = False
    parameters_type = DaopParameters

    def choose(self, needed: Needed) -> Choice:
        """Decide for one layer."""
        absent = tuple(missing(needed))
        if needed.prefill:
            return Choice(absent)
        early = tuple(
            expert
            for expert in absent
            if needed.layer > 0 and luck(needed, expert) < self.parameters.accuracy
        )
        return Choice((), absent, early)
