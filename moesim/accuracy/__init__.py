"""Predicted against measured: how far the cost models are from kernels that somebody else timed.

``accuracy()`` predicts every measured row that it can without having seen it (see ``protocols``) and
sums the errors up by device, family, precision and software.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moesim.accuracy.run import AccuracyReport, accuracy

__all__ = ["AccuracyReport", "accuracy"]


def __getattr__(name: str) -> Any:
    """Import on first use, because tables need pandas."""
    if name in __all__:
        from moesim.accuracy import run

        return getattr(run, name)
    message = f"module 'moesim.accuracy' has no attribute '{name}'"
    raise AttributeError(message)
