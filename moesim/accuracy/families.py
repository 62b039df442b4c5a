"""The families of measured costs, each with its tables and its model.

To add one, write a module with ``FAMILIES: tuple[Family, ...]`` and list it in ``_MODULES``.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Final, Protocol

from moesim.accuracy.protocols import Array
from moesim.errors import unknown_name
from moesim.measured.rows import Measured

FAMILY_NAMES: Final = (
    "moe",
    "gemm",
    "attention_prefill",
    "attention_decode",
    "all_to_all",
    "all_gather",
    "reduce_scatter",
    "all_reduce",
    "ep_dispatch",
    "ep_combine",
    "end_to_end",
)
"""All families in the order of reports."""

_MODULES: Final[tuple[str, ...]] = ("moe", "gemm", "attention", "collectives", "ep")
"""Modules of this package that provide families."""


class Family(Protocol):
    """One kind of measured cost.

    Attributes:
        name: one of ``FAMILY_NAMES``.
        curve: columns (beside dtype and backend) that are constant along a measured curve.
        axis: column that varies along a curve, positive; measured prices are read along it.
        case: columns that name a row beside its shape, for the list of worst cases.
        fit_rows: rows that one fit takes at most; longer tables are thinned.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def curve(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def axis(self) -> str: ...  # noqa: D102
    @property
    def case(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def fit_rows(self) -> int: ...  # noqa: D102

    def measured(self, device: str) -> Measured:
        """Return all timings of a device (empty if there are none), already without bad rows."""

    def predict(self, train: Measured, test: Measured) -> Array:
        """Predict seconds of ``test`` with constants fitted on ``train``.

        Both hold one dtype and backend. ``train`` holds the same device (leave_model_out) or only other
        ones (leave_device_out), so constants must be shares of datasheet rates or universal.
        """


@cache
def families() -> dict[str, Family]:
    """Return the available families by name, in the order of reports."""
    found: dict[str, Family] = {}
    for module in _MODULES:
        for family in import_module(f"moesim.accuracy.{module}").FAMILIES:
            found[family.name] = family
    return {name: found[name] for name in FAMILY_NAMES if name in found}


def family_named(name: str) -> Family:
    """Return a family.

    Raises:
        InputError: no such family; names the nearest one.
    """
    known = families()
    if name not in known:
        raise unknown_name("family of measurements", name[:60], known)
    return known[name]
