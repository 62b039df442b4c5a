"""Loads foretold: a component of policies that decide before the gate."""

from moesim.policies.prediction.base import Predictor
from moesim.policies.prediction.predictors import (
    Distribution,
    LastWindow,
    MovingAverage,
    Oracle,
    TokenToExpert,
)
from moesim.policies.prediction.reading import PREDICTORS, AnyPredictor, create_predictor

__all__ = [
    "PREDICTORS",
    "AnyPredictor",
    "Distribution",
    "LastWindow",
    "MovingAverage",
    "Oracle",
    "Predictor",
    "TokenToExpert",
    "create_predictor",
]
