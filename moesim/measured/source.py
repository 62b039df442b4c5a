"""The tables of one device as a source of prices.

Every method returns a ``Reading``: seconds, and a mask of the entries that lie within what was measured.
Nothing is extrapolated; outside the mask seconds are 0, and the caller prices those entries otherwise. Sizes
are numbers or arrays that broadcast together; a call takes as many numpy operations for one point as for
thousands. Nothing to do (no rows, no sequences, no bytes) costs nothing and counts as inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

from moesim.errors import InputError
from moesim.hardware.catalogue import load_device
from moesim.hardware.grouped_gemm import ExpertShape
from moesim.hardware.protocols import Operation
from moesim.hardware.spec import Device
from moesim.measured.between import Reading, idle, nothing
from moesim.measured.dense_grids import attention_grids, gemm_grid
from moesim.measured.expert_curves import ExpertCurves, Model, expert_curves
from moesim.measured.network_grids import Direction, collective_grid, exchange_grid
from moesim.measured.tables import measured_devices


class MeasuredTables:
    """Prices of one device, read off published timings.

    Making one is cheap: tables are read when a price of their kind is first asked for, and kept in memory for
    all makers of the same device.

    Args:
        device: a device of the catalogue; only its name decides which tables are read.

    Raises:
        InputError: the package with the tables is not installed, or holds none of this device.
    """

    def __init__(self, device: Device) -> None:
        known = measured_devices()
        name = _tabled(device, known)
        if name is None:
            message = f"there are no measured tables of device '{device.name}'"
            raise InputError(message, hint=f"measured and closest to it: {', '.join(closest(device, known))}")
        self.device = name

    def gemm(self, rows: npt.ArrayLike, n: npt.ArrayLike, k: npt.ArrayLike, kind: str) -> Reading:
        """Read one dense GEMM ``[rows, k] x [k, n]``.

        Of the software that timed this kind, vLLM wins over TensorRT-LLM and SGLang, newest version of each,
        except where its timings are the host's. Formats of 8 and 4 bits include quantising the rows.

        Args:
            rows: rows of activations.
            n: columns of the weights.
            k: rows of the weights.
            kind: ``bf16``, ``fp8``, ``fp8_block`` ..., a key of ``hardware.dense_gemm.FORMATS``.
        """
        grid = gemm_grid(self.device, kind)
        reading = nothing(rows, n, k) if grid is None else grid.read(rows, n, k)
        return idle(reading, rows)

    def attention(
        self,
        kind: str,
        phase: str,
        batch: npt.ArrayLike,
        queries: npt.ArrayLike,
        context: npt.ArrayLike,
        *,
        heads: int,
        kv_heads: int = 1,
        head_dim: int = 128,
        window: int = 0,
        dtype: str = "bf16",
    ) -> Reading:
        """Read one attention core with writing its cache.

        Measured were prefill without earlier tokens and decoding one token per sequence; other calls are
        outside. Of the software that timed a head width and window, vLLM wins over TensorRT-LLM and SGLang.

        Args:
            kind: ``gqa`` (also multi-head and multi-query) or ``mla`` (DeepSeek's latent attention).
            phase: ``prefill`` or ``decode``.
            batch: sequences.
            queries: new tokens per sequence.
            context: tokens that the last query sees, the new ones included.
            heads: query heads of the device.
            kv_heads: KV heads of the device; 1 for ``mla``.
            head_dim: width of a head; 128 for ``mla``.
            window: tokens that a query sees at most; 0 for all.
            dtype: ``bf16``, ``bf16_kv8`` (8-bit cache) or ``fp8``.
        """
        sizes = (batch, queries, context)
        grids = attention_grids(self.device, kind, phase, dtype)
        seen, new = np.asarray(context, dtype=np.float64), np.asarray(queries, dtype=np.float64)
        seconds, inside = nothing(*sizes)
        # Until a context outgrows the window, there is none.
        for width in {0, window}:
            grid = grids.get((head_dim, width))
            if grid is not None:
                told = grid.read(batch, heads, kv_heads, context)
                here = (seen > window) == (width > 0) if window else True
                seconds, inside = np.where(here, told.seconds, seconds), np.where(here, told.inside, inside)
        inside = inside & (new == (seen if phase == "prefill" else 1.0))
        shape = np.broadcast_shapes(*(np.shape(size) for size in sizes))
        found = (np.broadcast_to(part, shape) for part in (np.where(inside, seconds, 0.0), inside))
        return idle(Reading(*found), batch)

    def expert_curves(
        self,
        shape: ExpertShape,
        *,
        top_k: int,
        experts: int,
        dtype: str,
        backend: str | None = None,
        load: str | None = None,
    ) -> ExpertCurves | None:
        """Return the times of a kind of expert layer, or None if nobody took any; see ``expert_curves``."""
        hidden, intermediate = int(shape.hidden), int(shape.intermediate)
        return expert_curves(
            self.device, hidden, intermediate, top_k, experts, dtype, shape.gated, backend, load
        )

    def experts(
        self,
        shape: ExpertShape,
        rows: npt.ArrayLike,
        *,
        top_k: int,
        experts: int,
        experts_here: int,
        dtype: str,
        backend: str | None = None,
        load: str | None = None,
        model: Model | None = None,
    ) -> Reading:
        """Read one fused expert layer under a standard load: balanced, or else the mildest power law.

        To price other loads, take ``expert_curves`` and scale by an analytic model of both loads.

        Args:
            shape: widths of one expert on the device; its formats are not looked at.
            rows: pairs of tokens and experts that the device computes.
            top_k: experts per token.
            experts: routed experts of the layer.
            experts_here: experts of the device.
            dtype: format of the weights, a key of ``hardware.calibration.FORMATS``.
            backend: software, or software and kernel family; see ``expert_curves`` for the default.
            load: one of ``expert_curves.LOADS``; by default the first that was measured.
            model: analytic seconds under the same load, as a guide; see ``ExpertCurves.seconds``.
        """
        curves = self.expert_curves(
            shape, top_k=top_k, experts=experts, dtype=dtype, backend=backend, load=load
        )
        return idle(nothing(rows), rows) if curves is None else curves.seconds(rows, experts_here, model)

    def collective(self, operation: Operation, devices: npt.ArrayLike, size: npt.ArrayLike) -> Reading:
        """Read one collective of NCCL among devices of one node, newest version.

        Args:
            operation: one of ``hardware.protocols.OPERATIONS``.
            devices: devices that take part.
            size: bytes of the whole buffer of a device, as ``hardware.protocols.collective_seconds`` counts.
        """
        grid = collective_grid(self.device, operation)
        return idle(nothing(devices, size) if grid is None else grid.read(devices, size), size)

    def expert_exchange(
        self,
        direction: Direction,
        kernel: str,
        tokens: npt.ArrayLike,
        *,
        hidden: int,
        dtype: str,
        top_k: int,
        experts: int,
        devices: int,
        nodes: int = 1,
        sms: int | None = None,
    ) -> Reading:
        """Read one dispatch or combine of evenly routed tokens; see ``network_grids.exchange_grid``.

        DeepEP's own test wins over TensorRT-LLM's and vLLM's of the same kernel.

        Args:
            tokens: tokens per device.
            direction: ``dispatch`` or ``combine``.
            kernel: ``low_latency``, ``normal`` or ``rack``.
            hidden: width of a token.
            dtype: format of the rows on the way.
            top_k: experts per token.
            experts: experts of the layer.
            devices: devices of the whole group.
            nodes: nodes that it spans.
            sms: SMs of a normal kernel; the nearest measured number counts, by default DeepEP's own.
        """
        asked = (direction, kernel, dtype, hidden, top_k, experts, devices, nodes, sms)
        grid = exchange_grid(self.device, *asked)
        return idle(nothing(tokens) if grid is None else grid.read(tokens), tokens)


def closest(device: Device, names: tuple[str, ...], count: int = 3) -> list[str]:
    """Return the catalogued devices whose memory rate and bf16 rate are nearest in proportion."""
    here = _rates(device)

    def distance(name: str) -> float:
        return float(np.abs(np.log(_rates(load_device(name)) / here)).sum())

    return sorted(names, key=distance)[:count]


def _rates(device: Device) -> npt.NDArray[np.float64]:
    return np.array([device.memory.bandwidth, device.flops("bf16")])


def _tabled(device: Device, known: Sequence[str]) -> str | None:
    """Return the device whose tables serve: its own, or those of kin with the same chip and memory."""
    if device.name in known:
        return device.name
    if device.kin is not None and device.kin in known:
        kin = load_device(device.kin)
        same = (kin.peak_flops, kin.memory, kin.compute_units)
        if same == (device.peak_flops, device.memory, device.compute_units):
            return kin.name
    return None


@cache
def measured_tables(device: Device) -> MeasuredTables:
    """Return the tables of a device, always the same object for the same one."""
    return MeasuredTables(device)
