"""Turn a recording into tidy tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from moesim.causes import CAUSES
from moesim.engine.host import HOST_CAUSES
from moesim.engine.memory import STAGES, Moment
from moesim.engine.offload.recording import OffloadRecording
from moesim.engine.own_costs import AFTER_COMBINE, BEFORE_DISPATCH
from moesim.engine.recording import Recording
from moesim.engine.spans import SHORTEST_S, spans_table

if TYPE_CHECKING:
    import pandas as pd


def tables(recording: Recording | OffloadRecording) -> dict[str, pd.DataFrame]:
    """Build all tables of a run: steps, layers, devices, memory, links, spans, critical_path.

    A run that offloads has iterations and caches besides.
    """
    if isinstance(recording, OffloadRecording):
        return recording.tables()
    return {
        "steps": _steps(recording),
        "layers": _layers(recording),
        "devices": _devices(recording),
        "memory": _memory(recording),
        "links": _links(recording),
        "spans": spans_table(recording),
        "critical_path": _critical_path(recording),
    }


def _steps(recording: Recording) -> pd.DataFrame:
    import pandas as pd

    frame = pd.DataFrame(recording.steps)
    causes = np.stack([shares.sum(axis=0) for shares in recording.breakdown])
    for index, cause in enumerate(CAUSES):
        frame[f"{cause}_s"] = causes[:, index]
    return frame


def _layers(recording: Recording) -> pd.DataFrame:
    """One row per step and transformer layer; what only MoE layers have is missing in dense ones."""
    import pandas as pd

    setup = recording.setup
    count, rows = len(recording.breakdown), setup.moe_rows
    shares = np.concatenate(recording.breakdown)
    layers = len(setup.layers)
    frame = pd.DataFrame(
        {
            "step": np.repeat([int(step["step"]) for step in recording.steps], layers),
            "layer": np.tile([layer.index for layer in setup.layers], count),
            "latency_s": shares.sum(axis=1),
            "bound_s": np.concatenate([columns["bound"] for columns in recording.layer_columns]),
        }
    )
    where = (np.arange(count)[:, np.newaxis] * layers + rows).ravel()
    for name, empty in _MOE_COLUMNS.items():
        values = np.full(count * layers, empty)
        values[where] = np.concatenate([columns[name] for columns in recording.layer_columns])
        frame[name] = values
    frame = frame.astype({"straggler": "int64", "moves": "int64"})
    for index, cause in enumerate(CAUSES):
        frame[f"{cause}_s"] = shares[:, index]
    return frame


def _devices(recording: Recording) -> pd.DataFrame:
    import pandas as pd

    setup = recording.setup
    count, devices, layers = len(recording.device_columns), setup.cluster.size, setup.moe_rows.size
    indices = [setup.layers[row].index for row in setup.moe_rows]
    steps = [int(step["step"]) for step in recording.steps[:count]]
    frame = pd.DataFrame(
        {
            "step": np.repeat(np.asarray(steps, dtype=np.int64), layers * devices),
            "layer": np.tile(np.repeat(np.asarray(indices, dtype=np.int64), devices), count),
            "device": np.tile(np.arange(devices), count * layers),
        }
    )
    for name in ("copies", "experts", "busy_s", "wait_s", "experts_s", "received_bytes"):
        parts = [columns[name].ravel() for columns in recording.device_columns]
        frame[name] = np.concatenate(parts) if parts else np.zeros(0)
    return frame.astype({"copies": "int64", "experts": "int64"})


def _memory(recording: Recording) -> pd.DataFrame:
    """One row per device and owner, at the moment the device was fullest."""
    import pandas as pd

    setup, ledger = recording.setup, recording.memory
    assert ledger is not None
    at_peak = ledger.at_peak
    owners, capacity, peak = list(at_peak), ledger.capacity, ledger.peak
    moments = [label if isinstance(label, Moment) else Moment(0, 0, STAGES[0]) for label in ledger.peak_label]
    layer_of = [setup.layers[row].index for row in setup.moe_rows]
    columns: dict[str, Any] = {
        "device": np.arange(ledger.devices),
        "node": setup.cluster.node_of,
        "tier": [device.memory.name for device in setup.cluster.devices],
        "peak_bytes": peak,
        "capacity_bytes": capacity,
        "out_of_memory": peak > capacity,
        "step": [moment.step for moment in moments],
        "layer": [layer_of[moment.layer] for moment in moments],
        "stage": [moment.stage for moment in moments],
    }
    frame = pd.DataFrame({name: np.repeat(values, len(owners)) for name, values in columns.items()})
    frame.insert(3, "owner", np.tile(owners, ledger.devices))
    frame.insert(4, "bytes", np.stack([at_peak[owner] for owner in owners], axis=1).ravel())
    return frame


def _links(recording: Recording) -> pd.DataFrame:
    import pandas as pd

    network = recording.setup.cluster.network
    amounts = recording.link_bytes
    assert amounts is not None
    run = sum(step["latency_s"] for step in recording.steps)
    seconds = amounts / network.bandwidth
    return pd.DataFrame(
        {
            "link": list(network.names),
            "kind": list(network.kinds),
            "bytes": amounts,
            "seconds_at_rate": seconds,
            "utilisation": seconds / run if run > 0 else np.zeros_like(seconds),
            "bandwidth_bytes_per_s": network.bandwidth,
        }
    )


def _critical_path(recording: Recording) -> pd.DataFrame:
    """Who set the pace: every piece of work and every collective on the chain that set the latency."""
    import pandas as pd

    order, layers = recording.schedule, recording.setup.layers
    pieces = [recording.own[stage.batch].parts(stage) for stage in order.stages]
    rows = recording.setup.moe_rows
    found: list[tuple[int, int, str, int, float]] = []
    for step, pace in zip(recording.steps, recording.paces, strict=True):
        number = int(step["step"])
        chain = [
            (row, "migration", -1, seconds) for row, seconds in zip(rows, pace["migration"], strict=True)
        ]
        for index in np.flatnonzero(pace["device"] >= 0):
            stage, who = order.stages[index], int(pace["device"][index])
            chain += [(row, cause, who, seconds[who]) for row, cause, seconds in pieces[index]]
            ahead = order.awaiting(stage)
            if ahead is not None:
                for cause in HOST_CAUSES:
                    spent = float(pace["host"][cause][stage.batch, ahead])
                    chain.append((int(rows[ahead]), cause, who, spent))
            elif stage.part in ("experts", "expert_weights"):
                chain.append((rows[stage.layer], "experts", who, pace["experts"][index]))
        for exchange, seconds in zip(order.collectives, pace["exchange"], strict=True):
            row = rows[exchange.layer]
            if exchange.way == 1:
                chain.append((row, "combine", -1, seconds))
                continue
            moves = min(seconds, pace["overhang"][exchange.batch, exchange.layer])
            chain += [(row, "dispatch", -1, seconds - moves), (row, "weight_move", -1, moves)]
        chain.sort(key=lambda piece: _CHAIN.index(piece[1]))
        found += [(number, layers[row].index, *rest) for row, *rest in chain if rest[-1] > SHORTEST_S]
    return pd.DataFrame(found, columns=["step", "layer", "cause", "device", "seconds"])


_CHAIN = (
    "migration",
    *BEFORE_DISPATCH,
    *HOST_CAUSES,
    "experts",
    AFTER_COMBINE,
    "dispatch",
    "weight_move",
    "combine",
)
_MOE_COLUMNS = {
    "imbalance": np.nan,
    "straggler": -1,
    "moves": 0,
    "dispatch_busy_s": 0.0,
    "combine_busy_s": 0.0,
}
"""Columns of MoE layers, with what stands in dense ones."""
