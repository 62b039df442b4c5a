"""What an offloading run leaves behind: columns while it runs, tables once at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from moesim.causes import CAUSES
from moesim.engine.offload.machine import COUNTS
from moesim.engine.offload.memory import standing_memory
from moesim.engine.offload.runner import IterationRecord, OffloadRunner
from moesim.engine.offload.spans import spans_of
from moesim.engine.offload.turn import Turn
from moesim.engine.setup import Setup
from moesim.hardware.memory import MemoryLedger

if TYPE_CHECKING:
    import pandas as pd

Array = npt.NDArray[np.float64]

DEVICE_ROWS = 500_000
"""Rows of the per-device table that are kept; later iterations go into the other tables only."""

_AT = {cause: place for place, cause in enumerate(CAUSES)}


class OffloadRecording:
    """Columns of an offloading run.

    Attributes:
        setup: what ran.
        steps: figures of each iteration.
        memory: what every device held.
    """

    def __init__(self, runner: OffloadRunner) -> None:
        self.setup: Setup = runner.setup
        self.runner = runner
        self.steps: list[dict[str, float]] = []
        self.iterations: list[dict[str, Any]] = []
        self.breakdown: list[Array] = []
        self.bounds: list[Array] = []
        self.imbalances: list[Array] = []
        self.stragglers: list[npt.NDArray[np.int64]] = []
        self.network: list[Array] = []
        self.devices: list[dict[str, Array]] = []
        self.spans: list[tuple[int, int, int, str, str, float, float]] = []
        self.memory: MemoryLedger = standing_memory(self.setup, runner.sizes)
        self._before = np.zeros(len(COUNTS), dtype=np.int64)
        self._bytes = (0.0, 0.0, 0.0)
        self._link_bytes: Array | None = None
        host = self.setup.cluster.shape.host
        assert host is not None
        powers = [device.power_w for device in self.setup.cluster.devices]
        cpu = 0.0 if host.unified else host.processor.power_w or 0.0
        known = all(powers)
        self._watts = sum(power or 0.0 for power in powers) + cpu if known else 0.0

    def add(self, record: IterationRecord) -> None:
        """Take one iteration in."""
        rows = self.setup.moe_rows
        turns = record.turns
        shares = record.own.shares.copy()
        bound = shares.sum(axis=1)
        bound[rows] += record.bound - record.own.shared.mean(axis=1)
        told = np.array([[_told(turn) for turn in row] for row in turns], dtype=np.float64)
        begun, ends, *causes, copies, active = np.moveaxis(told, 2, 0)
        slowest = ends.max(axis=1)
        for cause, values in zip(("experts", "expert_load", "cpu_experts"), causes, strict=True):
            shares[rows, _AT[cause]] = values.mean(axis=1)
        waits = record.own.before.max(axis=1) - record.own.before.mean(axis=1)
        shares[rows, _AT["wait"]] += waits[:-1] + slowest - ends.mean(axis=1)
        bound[rows] += waits[:-1]
        shares[-1, _AT["wait"]] += waits[-1]
        bound[-1] += waits[-1]
        shares[rows[0], _AT["planning"]] += record.planning
        for way, cause in enumerate(("dispatch", "combine")):
            shares[rows, _AT[cause]] = record.dispatched[way]
        self.breakdown.append(shares)
        self.bounds.append(bound)
        mean = copies.mean(axis=1)
        imbalance = np.divide(copies.max(axis=1), mean, out=np.ones_like(mean), where=mean > 0)
        self.imbalances.append(imbalance)
        self.stragglers.append(ends.argmax(axis=1))
        self.network.append(record.dispatched)
        self._step(record, shares, bound, float(imbalance.mean()))
        if (len(self.devices) + 1) * copies.size <= DEVICE_ROWS:
            own = record.own.before[:-1] + record.own.shared
            waited = ends - begun - record.own.shared - causes[0] + (slowest[:, np.newaxis] - ends)
            nothing = np.zeros_like(copies)
            self.devices.append(
                {
                    "copies": copies,
                    "experts": active,
                    "busy_s": own + causes[0],
                    "wait_s": waited,
                    "experts_s": causes[0],
                    "received_bytes": nothing if record.exchange is None else record.exchange.received,
                }
            )
        if record.exchange is not None:
            links = (record.exchange.dispatch_links + record.exchange.combine_links).sum(axis=0)
            self._link_bytes = links if self._link_bytes is None else self._link_bytes + links
        if record.iteration.number < self.setup.span_steps:
            self.spans += spans_of(self.setup, record)

    def _step(self, record: IterationRecord, shares: Array, bound: Array, imbalance: float) -> None:
        """Add the figures of one iteration."""
        turns = record.turns
        iteration = record.iteration
        skipped = sum(turn.skipped for row in turns for turn in row)
        tokens = len(record.demand.ids)
        narrow = self.runner.offload.settings.narrow_share > 0
        changed = sum(
            tokens if narrow else min(tokens, sum(turn.skipped + turn.low + sum(turn.early) for turn in row))
            for row in turns
        )
        self.steps.append(
            {
                "step": iteration.number,
                "latency_s": float(shares.sum()),
                "bound_s": float(bound.sum()),
                "tokens": tokens,
                "copies": int(record.demand.copies.sum()) - skipped,
                "dropped_copies": skipped,
                "changed_tokens": changed,
                "imbalance": imbalance,
                "moved_bytes": 0.0,
                "migrated_bytes": 0.0,
                "events": self.runner.loader.begun,
            }
        )
        total = record.counts.sum(axis=(0, 1))
        now = (*record.loaded_bytes, record.wasted_bytes)
        self.iterations.append(
            {
                "step": iteration.number,
                "group": iteration.group,
                "phase": iteration.phase,
                "context": iteration.context,
                "sequences": self.runner.sequences * self.setup.cluster.size,
                **dict(zip(COUNTS, (total - self._before).tolist(), strict=True)),
                "loaded_bytes": now[0] - self._bytes[0],
                "prefetched_bytes": now[1] - self._bytes[1],
                "wasted_bytes": now[2] - self._bytes[2],
                "energy_j": self._watts * float(shares.sum()),
            }
        )
        self._before, self._bytes = total, now

    def tables(self) -> dict[str, pd.DataFrame]:
        """Build all tables of the run."""
        import pandas as pd

        return {
            "steps": self._steps_table(),
            "layers": self._layers_table(),
            "devices": self._devices_table(),
            "memory": self._memory_table(),
            "links": self._links_table(),
            "spans": pd.DataFrame(
                self.spans, columns=["step", "layer", "device", "stream", "cause", "start_s", "end_s"]
            ),
            "critical_path": self._critical_path(),
            "iterations": pd.DataFrame(self.iterations),
            "caches": self._caches_table(),
        }

    def _steps_table(self) -> pd.DataFrame:
        import pandas as pd

        frame = pd.DataFrame(self.steps)
        frame["events"] = np.diff(frame["events"].to_numpy(), prepend=0)
        causes = np.stack([shares.sum(axis=0) for shares in self.breakdown])
        for place, cause in enumerate(CAUSES):
            frame[f"{cause}_s"] = causes[:, place]
        return frame

    def _layers_table(self) -> pd.DataFrame:
        import pandas as pd

        setup, count = self.setup, len(self.breakdown)
        rows, layers = setup.moe_rows, len(setup.layers)
        shares = np.concatenate(self.breakdown)
        where = (np.arange(count)[:, np.newaxis] * layers + rows).ravel()

        def spread(values: Any, empty: float) -> Array:
            column = np.full(count * layers, empty)
            column[where] = np.concatenate(values)
            return column

        frame = pd.DataFrame(
            {
                "step": np.repeat(np.arange(count), layers),
                "layer": np.tile([layer.index for layer in setup.layers], count),
                "latency_s": shares.sum(axis=1),
                "bound_s": np.concatenate(self.bounds),
                "imbalance": spread(self.imbalances, np.nan),
                "straggler": spread(self.stragglers, -1),
                "moves": 0,
                "dispatch_busy_s": spread([ways[0] for ways in self.network], 0.0),
                "combine_busy_s": spread([ways[1] for ways in self.network], 0.0),
            }
        ).astype({"straggler": "int64"})
        for place, cause in enumerate(CAUSES):
            frame[f"{cause}_s"] = shares[:, place]
        return frame

    def _devices_table(self) -> pd.DataFrame:
        import pandas as pd

        setup, count = self.setup, len(self.devices)
        devices, indices = setup.cluster.size, [setup.layers[row].index for row in setup.moe_rows]
        frame = pd.DataFrame(
            {
                "step": np.repeat(np.arange(count, dtype=np.int64), len(indices) * devices),
                "layer": np.tile(np.repeat(np.asarray(indices, dtype=np.int64), devices), count),
                "device": np.tile(np.arange(devices), count * len(indices)),
            }
        )
        for name in ("copies", "experts", "busy_s", "wait_s", "experts_s", "received_bytes"):
            parts = [columns[name].ravel() for columns in self.devices]
            frame[name] = np.concatenate(parts) if parts else np.zeros(0)
        return frame.astype({"copies": "int64", "experts": "int64"})

    def _memory_table(self) -> pd.DataFrame:
        """Devices' own memory, then the tier in which all experts are kept, booked on the first device."""
        import pandas as pd

        setup, ledger = self.setup, self.memory
        layer = setup.layers[setup.moe_rows[0]].index
        rows = [
            (
                device,
                int(setup.cluster.node_of[device]),
                setup.cluster.devices[device].memory.name,
                owner,
                int(amounts[device]),
                int(ledger.peak[device]),
                int(ledger.capacity[device]),
            )
            for device in range(ledger.devices)
            for owner, amounts in ledger.at_peak.items()
        ]
        shape, store = setup.cluster.shape, self.runner.sizes.store
        place = shape.storage if store == "storage" else shape.host
        assert place is not None
        held = int(np.ceil(self.runner.prices.bytes.sum()))
        tier = "storage" if store == "storage" else "host DRAM"
        rows.append((0, 0, tier, "experts", held, held, place.capacity * len(shape.nodes)))
        names = ["device", "node", "tier", "owner", "bytes", "peak_bytes", "capacity_bytes"]
        frame = pd.DataFrame(rows, columns=names)
        frame["out_of_memory"] = frame["peak_bytes"] > frame["capacity_bytes"]
        frame["step"], frame["layer"], frame["stage"] = 0, layer, "experts"
        return frame

    def _links_table(self) -> pd.DataFrame:
        import pandas as pd

        network = self.setup.cluster.network
        run = sum(step["latency_s"] for step in self.steps)
        amounts = np.zeros(len(network.names)) if self._link_bytes is None else self._link_bytes
        found = [
            (name, kind, float(amount), float(rate))
            for name, kind, amount, rate in zip(
                network.names, network.kinds, amounts, network.bandwidth, strict=True
            )
        ]
        found += [(name, "copy", amount, rate) for name, amount, rate in self.runner.loader.carried()]
        frame = pd.DataFrame(found, columns=["link", "kind", "bytes", "bandwidth_bytes_per_s"])
        frame["seconds_at_rate"] = frame["bytes"] / frame["bandwidth_bytes_per_s"]
        frame["utilisation"] = frame["seconds_at_rate"] / run if run > 0 else 0.0
        return frame

    def _critical_path(self) -> pd.DataFrame:
        """Causes by layer on the device that ended the layer; their seconds add up to the latency."""
        import pandas as pd

        setup = self.setup
        shares = np.stack(self.breakdown)
        step, row, cause = np.nonzero(shares > 1e-12)
        last = np.zeros(shares.shape[:2], dtype=np.int64)
        last[:, setup.moe_rows] = np.stack(self.stragglers)
        shared = np.isin(cause, [_AT["dispatch"], _AT["combine"]])
        return pd.DataFrame(
            {
                "step": step,
                "layer": np.asarray([layer.index for layer in setup.layers])[row],
                "cause": np.asarray(CAUSES, dtype=object)[cause],
                "device": np.where(shared, -1, last[step, row]),
                "seconds": shares[step, row, cause],
            }
        )

    def _caches_table(self) -> pd.DataFrame:
        import pandas as pd

        setup, runner = self.setup, self.runner
        counts = np.asarray(runner.machine.counts, dtype=np.int64)
        devices, layers, _ = counts.shape
        slots = np.stack(
            [
                frame.capacity if frame.caches == layers else np.full(layers, int(frame.capacity[0]))
                for frame in runner.sizes.frames
            ]
        )
        frame = pd.DataFrame(
            {
                "device": np.repeat(np.arange(devices), layers),
                "layer": np.tile([setup.layers[row].index for row in setup.moe_rows], devices),
                "slots": slots.ravel(),
            }
        )
        for place, name in enumerate(COUNTS):
            frame[name] = counts[:, :, place].ravel()
        return frame


def _told(turn: Turn) -> tuple[float, ...]:
    """Return what the tables tell of a device's layer, in the order in which ``add`` reads it."""
    return (
        turn.begin,
        turn.end,
        turn.experts_s,
        turn.load_s,
        turn.cpu_s,
        turn.copies,
        turn.active,
    )
