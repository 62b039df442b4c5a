"""Measured collectives and expert exchanges as grids."""

from __future__ import annotations

from functools import cache
from typing import Final, Literal

import numpy as np

from moesim.hardware.protocols import Operation
from moesim.measured.grid import Grid

Direction = Literal["dispatch", "combine"]

SOFTWARE: Final = ("sglang", "trtllm", "vllm")
"""Whose timings of an exchange win: DeepEP's own test ran from SGLang's images; the others' contain what the
framework adds."""

USUAL_SMS: Final = 20
"""SMs of DeepEP's normal kernels unless asked otherwise (its default)."""


@cache
def collective_grid(device: str, operation: Operation) -> Grid | None:
    """Return NCCL's times over devices and bytes of the whole buffer; None if nobody took any.

    Two-byte elements win over one-byte ones, whose times are the same but for reductions.
    """
    from moesim.measured.collective_tables import collective_rows

    rows = collective_rows(operation, device)
    if rows.empty:
        return None
    wide = rows[rows["dtype"] == "fp16"]
    rows = wide if len(wide) else rows
    return Grid.of([rows["num_gpus"].to_numpy(), rows["bytes"].to_numpy()], rows["seconds"].to_numpy())


@cache
def exchange_grid(
    device: str,
    direction: Direction,
    kernel: str,
    dtype: str,
    hidden: int,
    top_k: int,
    experts: int,
    devices: int,
    nodes: int,
    sms: int | None = None,
) -> Grid | None:
    """Return the times of an exchange over tokens per device; None if nobody took any.

    Args:
        device: catalogue name.
        direction: ``dispatch`` or ``combine``.
        kernel: ``low_latency``, ``normal`` (DeepEP) or ``rack`` (TensorRT-LLM over NVLink).
        dtype: format of the rows on the way.
        hidden: width of a token.
        top_k: experts per token.
        experts: experts of the layer.
        devices: devices of the whole group.
        nodes: nodes that it spans.
        sms: SMs that a normal kernel takes; the nearest measured number counts.
    """
    from moesim.measured.ep_tables import exchanges, row_bytes

    rows = exchanges(direction, device)
    if rows.empty:
        return None
    wanted = {"kernel": kernel, "dtype": dtype, "row": row_bytes(kernel, dtype, hidden)}
    wanted |= {"top_k": top_k, "experts": experts, "nodes": nodes}
    for name, value in wanted.items():
        rows = rows[rows[name] == value]
    rows = rows[rows["nodes"] * rows["per_node"] == devices]
    if rows.empty:
        return None
    backends = sorted(rows["backend"].unique(), key=_rank)
    rows = rows[rows["backend"] == backends[0]]
    taken = rows["sms"].unique()
    nearest = taken[np.argmin(np.abs(taken - (USUAL_SMS if sms is None else sms)))]
    rows = rows[rows["sms"] == nearest]
    return Grid.of([rows["tokens"].to_numpy()], rows["seconds"].to_numpy())


def _rank(backend: str) -> tuple[int, tuple[int, ...], str]:
    """Order backends: software, then the newer test of the same software, then the name."""
    place = next((place for place, name in enumerate(SOFTWARE) if name in backend), len(SOFTWARE))
    digits = "".join(letter if letter.isdigit() else " " for letter in backend).split()
    return place, tuple(-int(part) for part in digits), backend
