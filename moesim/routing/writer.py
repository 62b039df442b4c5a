"""Write routing traces of expert ids per token: rows stream to disk in bounded memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from moesim.errors import InputError
from moesim.routing.columns import check_ids, check_weights, phase_column, sequence_column, task_column
from moesim.routing.format import AnyArray
from moesim.routing.manifest import MAX_EXPERTS, Column, Manifest
from moesim.routing.staging import Writer, layer_indices


class TraceWriter(Writer):
    """Write a trace of expert ids per token, in bounded memory.

    Use it as a context manager; when the block fails, nothing is left behind.

    Args:
        path: directory to create.
        model: name of the model.
        experts: logical experts per layer.
        top_k: experts per token.
        layers: transformer layer index of each MoE layer, rising.
        ids_kind: ``logical``, or ``physical`` with a ``physical_to_logical`` map.
        tasks: names that the task column refers to.
        provenance: where the data came from.
        licence: licence of the data.
        weights: whether gate weights are stored, as float16.
        weight_scale: store weights as uint16 multiples of this number instead.
        physical_to_logical: logical expert of each physical one, [layers, physical].
        overwrite: replace a trace that exists.

    Raises:
        InputError: numbers that do not fit together, or a target that cannot be written.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        model: str,
        experts: int,
        top_k: int,
        layers: Sequence[int],
        ids_kind: Literal["logical", "physical"] = "logical",
        tasks: Sequence[str] = (),
        provenance: str = "",
        licence: str | None = None,
        weights: bool = False,
        weight_scale: float | None = None,
        physical_to_logical: npt.ArrayLike | None = None,
        overwrite: bool = False,
    ) -> None:
        fields: dict[str, Any] = {
            "kind": "tokens",
            "model": model,
            "experts": experts,
            "top_k": top_k,
            "layers": layer_indices(layers),
            "ids_kind": ids_kind,
            "tasks": tuple(tasks),
            "provenance": provenance,
            "licence": licence,
            "weight_scale": weight_scale,
        }
        super().__init__(path, fields, overwrite)
        self.path = self._directory.path
        self.tokens = 0
        self._item = (len(fields["layers"]), top_k)
        self.tasks = tuple(tasks)
        self._weights = weights or weight_scale is not None
        self._scale = weight_scale
        self._ids = experts
        self._given: frozenset[str] | None = None
        try:
            if ids_kind == "physical":
                self._write_map(physical_to_logical, experts)
            elif physical_to_logical is not None:
                message = "a physical_to_logical map needs ids_kind='physical'"
                raise InputError(message)
            dtype = np.uint8 if self._ids <= 256 else np.int16
            self._directory.column("ids", dtype, self._item)
        except BaseException:
            self.abandon()
            raise

    def _write_map(self, mapping: npt.ArrayLike | None, experts: int) -> None:
        if mapping is None:
            message = "physical ids need a physical_to_logical map, [layers, physical experts]"
            raise InputError(message)
        try:
            array = np.asarray(mapping)
        except ValueError as error:
            message = "physical_to_logical must have as many experts in every layer"
            raise InputError(message) from error
        if array.ndim != 2 or len(array) != self._item[0] or array.dtype.kind not in "iu" or array.size == 0:
            message = f"physical_to_logical must be whole numbers [{self._item[0]} layers, physical experts]"
            raise InputError(message, hint=f"got shape {array.shape} of {array.dtype}")
        if int(array.min()) < 0 or int(array.max()) >= experts:
            message = f"physical_to_logical names an expert outside 0..{experts - 1}"
            raise InputError(message)
        if array.shape[1] > MAX_EXPERTS:
            message = f"a trace has at most {MAX_EXPERTS} physical experts, got {array.shape[1]}"
            raise InputError(message)
        self._ids = array.shape[1]
        self._directory.column("physical_to_logical", np.int16, (self._ids,)).append(array)

    def append(
        self,
        ids: npt.ArrayLike,
        weights: npt.ArrayLike | None = None,
        sequence: npt.ArrayLike | None = None,
        phase: npt.ArrayLike | str | None = None,
        task: npt.ArrayLike | str | None = None,
    ) -> None:
        """Add tokens.

        Args:
            ids: expert ids, whole numbers [n, layers, top_k].
            weights: gate weights, finite and not negative, same shape.
            sequence: sequence number of each token, or one for all.
            phase: ``prefill`` or ``decode``, or 0 and 1 per token.
            task: index into ``tasks`` per token, or one name for all.

        Raises:
            InputError: a shape, id, weight or column that does not belong; names the token and layer.
        """
        self._check_open()
        block = check_ids(ids, self._item, self._ids, self.tokens, str(self.path))
        rows = len(block)
        columns: dict[Column, AnyArray] = {}
        if sequence is not None:
            columns["sequence"] = sequence_column(sequence, rows)
        if phase is not None:
            columns["phase"] = phase_column(phase, rows)
        if task is not None:
            columns["task"] = task_column(task, rows, self.tasks)
        if self._weights != (weights is not None):
            message = (
                "this trace was opened with weights, so every append must give them"
                if self._weights
                else "this trace was opened without weights, so no append may give them"
            )
            raise InputError(message, str(self.path))
        if weights is not None:
            columns["weights"] = check_weights(weights, block.shape, self._scale, self.tokens, str(self.path))
        if self._given is not None and self._given != frozenset(columns):
            changed = ", ".join(sorted(self._given ^ frozenset(columns)))
            message = f"every append must give the same columns; this one differs in {changed}"
            raise InputError(message, str(self.path))
        self._given = frozenset(columns)
        self._directory.column("ids", np.uint8, self._item).append(block)
        for name, column in columns.items():
            self._directory.column(name, column.dtype, column.shape[1:]).append(column)
        self.tokens += rows

    def close(self) -> Manifest:
        """Complete the trace and give it its name."""
        self._check_open()
        manifest = self._directory.finish({**self._fields, "tokens": self.tokens})
        self._open = False
        return manifest
