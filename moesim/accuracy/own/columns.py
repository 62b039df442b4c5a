"""The columns of a file of own timings (docs/measurements.md describes them for people)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from moesim.hardware.calibration import FORMATS as GROUPED
from moesim.hardware.dense_gemm import FORMATS as DENSE


@dataclass(frozen=True)
class OwnFamily:
    """One family of own timings.

    Attributes:
        shape: columns that must hold a whole number, in order; together they say what was timed.
        least: smallest value of each, 1 where not given.
        dtypes: number formats that rows may name; empty: the format says nothing, ``-`` is enough.
        minimum: rows that one fit needs.
        texts: further columns of the family with the words that they may hold, the first if left empty.
    """

    shape: tuple[str, ...]
    minimum: int
    dtypes: tuple[str, ...] = ()
    least: Mapping[str, int] = field(default_factory=dict)
    texts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


_ATTENTION: Final = OwnFamily(
    shape=("batch", "queries", "context", "heads", "kv_heads", "head_dim", "window"),
    minimum=10,
    dtypes=("bf16", "bf16_kv8", "fp8"),
    least=MappingProxyType({"window": 0}),
    texts=MappingProxyType({"kind": ("gqa", "mla")}),
)
_COLLECTIVE: Final = OwnFamily(
    ("devices", "bytes"),
    minimum=8,
    dtypes=("bf16", "fp16", "fp32", "int8"),
    least=MappingProxyType({"devices": 2}),
)
_COPY: Final = OwnFamily(("bytes",), minimum=4, texts=MappingProxyType({"pinned": ("yes", "no")}))

OWN_FAMILIES: Final[Mapping[str, OwnFamily]] = MappingProxyType(
    {
        "moe": OwnFamily(
            ("hidden", "inter", "topk", "experts", "ep", "tokens"),
            minimum=10,
            dtypes=tuple(GROUPED),
            texts=MappingProxyType({"gated": ("yes", "no")}),
        ),
        "gemm": OwnFamily(("m", "n", "k"), minimum=10, dtypes=tuple(DENSE)),
        "attention_prefill": _ATTENTION,
        "attention_decode": _ATTENTION,
        "all_to_all": _COLLECTIVE,
        "all_gather": _COLLECTIVE,
        "reduce_scatter": _COLLECTIVE,
        "all_reduce": _COLLECTIVE,
        "memory": OwnFamily(("bytes",), minimum=4),
        "permute": OwnFamily(("tokens", "hidden", "topk"), minimum=4, dtypes=("bf16", "fp16", "fp32", "fp8")),
        "copy_h2d": _COPY,
        "copy_d2h": _COPY,
        "launch": OwnFamily(("kernels",), minimum=1, texts=MappingProxyType({"graph": ("no", "yes")})),
        "host_sync": OwnFamily((), minimum=1),
    }
)
"""What can be timed, in the order of reports."""

TIME_COLUMNS: Final[Mapping[str, float]] = MappingProxyType(
    {"latency_us": 1e-6, "latency_ms": 1e-3, "latency_s": 1.0}
)
"""Column that holds the time -> seconds of its unit; a file has exactly one of them."""

REQUIRED: Final = ("family", "device", "dtype", "backend", "driver", "library", "date")
"""Columns that every file has beside the time, and that no row may leave empty."""

LOADS: Final = ("dist", "counts")
"""Columns of which a row of family ``moe`` fills one: how the pairs spread over the experts."""

OPTIONAL: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {"cache": ("cold", "warm"), "smoke": ("no", "yes")}
)
"""Columns of all families with the words that they may hold, the first if left empty."""

NOTES: Final = ("spread", "repeats", "cuda", "clock_mhz", "memory_clock_mhz", "power_limit_w", "comment")
"""Columns that are kept for people and not read."""


def known_columns() -> list[str]:
    """Return all columns that a file may have, in the order in which they are usually written."""
    names = [*REQUIRED[:4]]
    for family in OWN_FAMILIES.values():
        names += [*family.shape, *family.texts]
    names += [*LOADS, *TIME_COLUMNS, *OPTIONAL, *REQUIRED[4:], *NOTES]
    return list(dict.fromkeys(names))
