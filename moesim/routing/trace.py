"""Recorded routing: a directory of memory-mapped columns, read in blocks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from moesim.errors import InputError
from moesim.routing.format import AnyArray, release, row_blocks
from moesim.routing.manifest import Column, Manifest, read_manifest
from moesim.routing.stored_columns import open_columns

Rows = slice | npt.NDArray[np.integer[Any]]

_BLOCK_BYTES: Final = 4 << 20


@dataclass(frozen=True, eq=False)
class Block:
    """A run of tokens read from a trace; columns that the trace lacks are None.

    Attributes:
        start: number of the first token.
        ids: logical expert ids, [n, layers, top_k].
        weights: gate weights, float32, same shape.
        sequence: sequence numbers, int32 [n].
        phase: 0 prefill, 1 decode, uint8 [n].
        task: index into the trace's tasks, int16 [n].
    """

    start: int
    ids: AnyArray
    weights: npt.NDArray[np.float32] | None
    sequence: AnyArray | None
    phase: AnyArray | None
    task: AnyArray | None


class RoutingTrace:
    """A routing trace on disk; nothing is read before it is asked for.

    Use :meth:`open`. Array attributes are read-only memory maps of what is stored: ``ids`` are physical
    where ``manifest.ids_kind`` says so, and :meth:`logical_ids` maps them.
    """

    def __init__(self, path: Path, manifest: Manifest, columns: dict[Column, AnyArray]) -> None:
        self.path = path
        self.manifest = manifest
        self.columns = columns

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open a trace directory after checking manifest, file sizes, headers, types and shapes.

        Contents are checked by :meth:`verify`.

        Raises:
            InputError: not a trace, damaged, truncated, or files that do not fit the manifest.
        """
        directory = Path(path)
        manifest = read_manifest(directory)
        return cls(directory, manifest, open_columns(directory, manifest))

    @property
    def name(self) -> str:
        """Name of the trace's directory."""
        return self.path.resolve().name

    @property
    def is_counts(self) -> bool:
        """Whether the trace holds only counts per step, no tokens."""
        return self.manifest.kind == "counts"

    @property
    def model(self) -> str:
        """Name of the recorded model."""
        return self.manifest.model

    @property
    def experts(self) -> int:
        """Logical experts per layer."""
        return self.manifest.experts

    @property
    def top_k(self) -> int:
        """Experts per token."""
        return self.manifest.top_k

    @property
    def layers(self) -> tuple[int, ...]:
        """Transformer layer index of each recorded MoE layer."""
        return self.manifest.layers

    @property
    def tokens(self) -> int:
        """Recorded tokens; for counts, an estimate from the busiest layer."""
        return self.manifest.tokens

    @property
    def steps(self) -> int | None:
        """Recorded steps of a counts-only trace, otherwise None."""
        return self.manifest.steps

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names that the task column refers to."""
        return self.manifest.tasks

    @property
    def ids(self) -> AnyArray:
        """Expert ids as stored, [tokens, layers, top_k].

        Raises:
            InputError: a counts-only trace has no ids.
        """
        if "ids" not in self.columns:
            message = f"the trace '{self.path}' holds counts only, no expert ids per token"
            raise InputError(message)
        return self.columns["ids"]

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """Copies per expert, int64 [steps, layers, experts].

        Raises:
            InputError: a trace of tokens stores no counts.
        """
        if "counts" not in self.columns:
            message = f"the trace '{self.path}' holds expert ids per token, not counts per step"
            raise InputError(message)
        return self.columns["counts"]

    @property
    def weights(self) -> AnyArray | None:
        """Gate weights as stored: float16, or uint16 multiples of ``manifest.weight_scale``."""
        return self.columns.get("weights")

    @property
    def sequence(self) -> AnyArray | None:
        """Sequence number of each token."""
        return self.columns.get("sequence")

    @property
    def phase(self) -> AnyArray | None:
        """Phase of each token: 0 prefill, 1 decode."""
        return self.columns.get("phase")

    @property
    def task(self) -> AnyArray | None:
        """Task of each token, an index into ``tasks``."""
        return self.columns.get("task")

    @property
    def physical_to_logical(self) -> AnyArray | None:
        """Logical expert of each physical one, [layers, physical], where ids are physical."""
        return self.columns.get("physical_to_logical")

    @property
    def id_limit(self) -> int:
        """Stored ids are below this: the number of physical experts, or of logical ones."""
        mapping = self.physical_to_logical
        return self.experts if mapping is None else int(mapping.shape[1])

    def logical_ids(self, rows: Rows) -> AnyArray:
        """Read the logical expert ids of some tokens, [n, layers, top_k].

        Raises:
            InputError: a physical id that the map does not know.
        """
        ids = self.ids[rows]
        mapping = self.physical_to_logical
        if mapping is None:
            return ids
        if ids.size and (int(ids.min()) < 0 or int(ids.max()) >= self.id_limit):
            message = f"an expert id is outside 0..{self.id_limit - 1}"
            raise InputError(message, str(self.path), hint="run 'moesim trace info' to find it")
        return np.asarray(mapping[np.arange(len(self.layers))[:, np.newaxis], ids])

    def gate_weights(self, rows: Rows) -> npt.NDArray[np.float32] | None:
        """Read the gate weights of some tokens, float32 [n, layers, top_k]; None when not recorded."""
        stored = self.weights
        if stored is None:
            return None
        weights = np.asarray(stored[rows], dtype=np.float32)
        scale = self.manifest.weight_scale
        return weights if scale is None else weights * np.float32(scale)

    def block_rows(self) -> int:
        """Return how many tokens make a block of about 4 MiB of ids."""
        return max(1, _BLOCK_BYTES // (len(self.layers) * self.top_k))

    def iter_blocks(self, rows: int | None = None) -> Iterator[Block]:
        """Read the whole trace in blocks of ``rows`` tokens, with logical ids."""
        for part in row_blocks(self.tokens, rows or self.block_rows()):
            yield Block(
                start=part.start,
                ids=self.logical_ids(part),
                weights=self.gate_weights(part),
                sequence=None if self.sequence is None else self.sequence[part],
                phase=None if self.phase is None else self.phase[part],
                task=None if self.task is None else self.task[part],
            )
            for column in self.columns.values():
                release(column)

    def info(self) -> dict[str, Any]:
        """Describe the trace and its balance; see :func:`moesim.routing.trace_info.trace_info`."""
        from moesim.routing.trace_info import trace_info

        return trace_info(self)

    def verify(self) -> None:
        """Check every byte; see :func:`moesim.routing.verify.verify_trace`."""
        from moesim.routing.verify import verify_trace

        verify_trace(self)
