"""moesim: a discrete-event simulator of Mixture-of-Experts clusters."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moesim.experiment import compare, simulate
    from moesim.layouts import compare_layouts
    from moesim.papers import reproduce
    from moesim.ranking import rank
    from moesim.results import Comparison, Ranking, Result
    from moesim.scenario import load_scenario
    from moesim.tuning import tune

__version__ = "0.1.0"

__all__ = [
    "Comparison",
    "Ranking",
    "Result",
    "compare",
    "compare_layouts",
    "load_scenario",
    "rank",
    "reproduce",
    "simulate",
    "tune",
]

_HOMES = {
    "Comparison": "moesim.results",
    "Ranking": "moesim.results",
    "Result": "moesim.results",
    "compare": "moesim.experiment",
    "compare_layouts": "moesim.layouts",
    "load_scenario": "moesim.scenario",
    "rank": "moesim.ranking",
    "reproduce": "moesim.papers",
    "simulate": "moesim.experiment",
    "tune": "moesim.tuning",
}


def __getattr__(name: str) -> Any:
    """Import public names on first use, so that ``import moesim`` costs nothing."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    message = f"module 'moesim' has no attribute '{name}'"
    raise AttributeError(message)
