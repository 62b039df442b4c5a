"""Tables, metrics, plots and timelines of a run."""

from __future__ import annotations

from moesim.results.comparison import Comparison
from moesim.results.ranking import Ranking
from moesim.results.result import Result
from moesim.results.store import load_comparison, load_result, save

__all__ = ["Comparison", "Ranking", "Result", "load_comparison", "load_result", "save"]
