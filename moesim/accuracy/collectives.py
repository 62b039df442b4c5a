"""NCCL's all-to-all, all-gather, reduce-scatter and all-reduce on one node.

The tables are of nccl-tests, out of place, on 2, 4 and 8 devices (GB200 and GB300: 2 and 4). Left out is
one number of devices at a time, so constants of 2 and 8 predict 4, and those of 2 and 4 predict 8.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from moesim.accuracy.prior_fit import Prior, fit
from moesim.accuracy.protocols import Array
from moesim.hardware.network_constants import node_links
from moesim.hardware.protocols import CollectiveConstants, Operation, collective_seconds
from moesim.measured.collective_tables import collective_rows
from moesim.measured.rows import Measured

_MIDDLE: Final = {
    "start_s": 6e-6,
    "step_s": 1e-6,
    "medium_s": 3e-6,
    "bulk_s": 8e-6,
    "ends": 1.2,
    "through": 1.4,
    "small_waste": 8.0,
    "medium_waste": 0.8,
    "crowding": 1.0,
}
_SPREAD: Final = {
    "start_s": 1.0,
    "step_s": 1.0,
    "medium_s": 1.5,
    "bulk_s": 1.5,
    "ends": 1.0,
    "through": 0.5,
    "small_waste": 1.5,
    "medium_waste": 1.5,
    "crowding": 1.0,
}
_STARTS: Final[tuple[Mapping[str, float], ...]] = tuple(
    {"medium_s": medium, "bulk_s": bulk, "small_waste": small, "medium_waste": waste}
    for medium, bulk in ((2e-6, 1e-5), (1e-6, 3e-6))
    for small, waste in ((3.0, 0.6), (30.0, 3.0))
)


@dataclass(frozen=True)
class CollectiveFamily:
    """One collective: see ``moesim.accuracy.families.Family``."""

    name: Operation
    curve: tuple[str, ...] = ("shape",)
    axis: str = "bytes"
    case: tuple[str, ...] = ("bytes",)
    fit_rows: int = 400

    def measured(self, device: str) -> Measured:
        """Return the rows of the newest NCCL; keys that were timed more than once by their median."""
        return collective_rows(self.name, device)

    def predict(self, train: Measured, test: Measured) -> Array:
        """Fit on rows of the nearest links there are, and predict.

        How long a collective takes to start goes with the generation of devices and switches (4 us on
        Hopper, 7 to 9 on Ampere and Blackwell), so devices behind links of the same kind and rate come
        first, then all of the same kind, then all.
        """
        wanted = {str(device) for device in test["device"].unique()}
        kinds = {node_links(device).kind for device in wanted}
        speeds = {(node_links(device).kind, node_links(device).rate) for device in wanted}
        links = [node_links(str(device)) for device in train["device"]]
        for alike in (
            np.array([(link.kind, link.rate) in speeds for link in links]),
            np.array([link.kind in kinds for link in links]),
        ):
            if alike.any():
                return predicted(self.name, test, fit_collective(self.name, train[alike]))
        return predicted(self.name, test, fit_collective(self.name, train))


def fit_collective(operation: Operation, train: Measured) -> CollectiveConstants:
    """Fit the constants of an operation to rows, of several systems if there are."""
    price = _pricer(operation, train)
    vector = fit(
        lambda vector: price(CollectiveConstants.from_vector(vector)),
        train["seconds"].to_numpy(dtype=float),
        Prior(_MIDDLE, _SPREAD),
        pull=0.008,
        starts=_STARTS,
    )
    return CollectiveConstants.from_vector(vector)


def predicted(operation: Operation, rows: Measured, constants: CollectiveConstants) -> Array:
    """Price rows, each with the datasheet rate of its device's links."""
    return _pricer(operation, rows)(constants)


def _pricer(operation: Operation, rows: Measured) -> Callable[[CollectiveConstants], Array]:
    """Return what prices rows, with everything looked up that does not depend on constants."""
    links = [node_links(str(device)) for device in rows["device"]]
    count, size = (rows[column].to_numpy(dtype=float) for column in ("num_gpus", "bytes"))
    rate, island = (np.array([getattr(link, name) for link in links]) for name in ("rate", "island"))
    return lambda constants: collective_seconds(operation, count, size, rate, constants, island)


FAMILIES: Final = (
    CollectiveFamily("all_to_all"),
    CollectiveFamily("all_gather"),
    CollectiveFamily("reduce_scatter"),
    CollectiveFamily("all_reduce"),
)
