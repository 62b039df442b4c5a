"""Which tokens arrive when."""

from moesim.workload.steps import Workload

__all__ = ["Workload"]
