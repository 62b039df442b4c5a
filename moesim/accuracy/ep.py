"""Expert-parallel dispatch and combine: DeepEP's low-latency and normal kernels, and NVLink in a rack.

Left out is one model shape at a time; of tables that span nodes, one number of nodes; of the rack, one
size of the group. The rate of the NIC is not fitted: it is the documented usable rate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from moesim.accuracy.prior_fit import Prior, fit
from moesim.accuracy.protocols import Array
from moesim.hardware import load_device
from moesim.hardware.expert_exchange import (
    LowLatencyConstants,
    NormalConstants,
    RackConstants,
    low_latency_seconds,
    normal_seconds,
    rack_seconds,
)
from moesim.hardware.network_constants import Constants, node_links, usable_nic_rate
from moesim.measured.ep_tables import exchanges
from moesim.measured.rows import Measured, measured

KERNELS: Final[dict[str, type[Constants]]] = {
    "low_latency": LowLatencyConstants,
    "normal": NormalConstants,
    "rack": RackConstants,
}

_EXPECTED: Final[dict[str, dict[str, tuple[float, float]]]] = {
    "low_latency": {
        "start_s": (12e-6, 0.7),
        "doubling_s": (3e-6, 1.0),
        "expert_s": (1e-7, 1.0),
        "token_s": (1e-6, 1.5),
        "nvlink": (1.5, 0.7),
        "overlap": (0.3, 1.0),
    },
    "normal": {
        "start_s": (25e-6, 0.7),
        "doubling_s": (5e-6, 1.0),
        "row_s": (1e-6, 1.0),
        "pair_s": (5e-8, 1.0),
        "drain_s": (15e-6, 0.7),
        "ramp_s": (15e-6, 0.7),
        "token_rate": (10e9, 1.0),
        "pair_rate": (30e9, 0.7),
        "relay": (1.5, 0.5),
        "nvlink": (1.4, 0.15),
        "contention": (5.0, 1.0),
    },
    "rack": {
        "start_s": (9e-6, 0.7),
        "doubling_s": (1e-6, 0.7),
        "token_rate": (500e9, 1.0),
        "nvlink": (1.4, 0.5),
        "spread": (150.0, 0.5),
    },
}
"""Middle and spread (natural logarithm) of each constant before anything is measured."""


@dataclass(frozen=True)
class ExchangeFamily:
    """One direction: see ``moesim.accuracy.families.Family``."""

    name: Literal["ep_dispatch", "ep_combine"]
    curve: tuple[str, ...] = ("shape", "nodes", "experts", "sms")
    axis: str = "tokens"
    case: tuple[str, ...] = ("nodes", "tokens", "sms")
    fit_rows: int = 600

    def measured(self, device: str) -> Measured:
        """Return all rows of a device."""
        table = exchanges(self.name.removeprefix("ep_"), device)
        return measured(table, device=device, family=self.name) if len(table) else table

    def predict(self, train: Measured, test: Measured) -> Array:
        """Fit on rows of the same kernel and predict; both hold only one."""
        kernel = str(test["kernel"].iloc[0])
        return predicted(test, fit_exchange(kernel, train))


def fit_exchange(kernel: str, train: Measured) -> Constants:
    """Fit the constants of ``low_latency``, ``normal`` or ``rack`` kernels to rows."""
    price = _pricer(train)
    expected = _EXPECTED[kernel]
    prior = Prior(
        {name: middle for name, (middle, _) in expected.items()},
        {name: spread for name, (_, spread) in expected.items()},
    )
    vector = fit(
        lambda vector: price(KERNELS[kernel].from_vector(vector)),
        train["seconds"].to_numpy(dtype=float),
        prior,
        pull=0.02,
        loss="cauchy",
    )
    return KERNELS[kernel].from_vector(vector)


def predicted(rows: Measured, constants: Constants) -> Array:
    """Price rows of one kernel, with the datasheet rates of each device's links."""
    return _pricer(rows)(constants)


def _pricer(rows: Measured) -> Callable[[Constants], Array]:
    """Return what prices rows, with everything looked up that does not depend on constants."""
    rate = np.array([node_links(str(device)).rate for device in rows["device"]])
    units = np.array([load_device(str(device)).compute_units for device in rows["device"]], dtype=float)
    nic = usable_nic_rate()
    column = {name: rows[name].to_numpy(dtype=float) for name in _FEATURES}
    tokens, row, nodes, per_node = (column[name] for name in ("tokens", "row", "nodes", "per_node"))

    def price(constants: Constants) -> Array:
        if isinstance(constants, LowLatencyConstants):
            top_k, experts = column["top_k"], column["experts"]
            return low_latency_seconds(
                tokens, top_k, experts, row, nodes, per_node, units, rate, nic, constants
            )
        pairs, sms = column["device_pairs"], column["sms"]
        if isinstance(constants, NormalConstants):
            over = column["node_pairs"]
            return normal_seconds(tokens, over, pairs, row, nodes, per_node, sms, rate, nic, constants)
        assert isinstance(constants, RackConstants)
        return rack_seconds(tokens, pairs, row, per_node, rate, constants)

    return price


_FEATURES: Final = (
    "tokens",
    "top_k",
    "experts",
    "row",
    "nodes",
    "per_node",
    "sms",
    "node_pairs",
    "device_pairs",
)

FAMILIES: Final = (ExchangeFamily("ep_dispatch"), ExchangeFamily("ep_combine"))
