"""Searching the parameters of a policy for a scenario."""

from __future__ import annotations

from moesim.tuning.outcome import Outcome
from moesim.tuning.search import tune
from moesim.tuning.trial import Trial

__all__ = ["Outcome", "Trial", "tune"]
