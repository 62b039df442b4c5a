"""Write traces that hold only counts: copies per expert, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.errors import InputError
from moesim.routing.manifest import Manifest
from moesim.routing.staging import Writer, layer_indices


class CountsWriter(Writer):
    """Write a counts-only trace; nothing is left behind when the block fails.

    Args:
        path: directory to create.
        model: name of the model.
        experts: logical experts per layer.
        top_k: experts per token, which turns copies into tokens.
        layers: transformer layer index of each MoE layer, rising.
        provenance: where the data came from.
        licence: licence of the data.
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
        provenance: str = "",
        licence: str | None = None,
        overwrite: bool = False,
    ) -> None:
        fields: dict[str, Any] = {
            "kind": "counts",
            "model": model,
            "experts": experts,
            "top_k": top_k,
            "layers": layer_indices(layers),
            "provenance": provenance,
            "licence": licence,
        }
        super().__init__(path, fields, overwrite)
        self.path = self._directory.path
        self.steps = 0
        self._item = (len(fields["layers"]), experts)
        self._copies = np.zeros(self._item[0], dtype=np.int64)
        self._file = self._directory.column("counts", np.int64, self._item)

    def append(self, counts: npt.ArrayLike) -> None:
        """Add steps.

        Args:
            counts: copies per expert, whole numbers [n, layers, experts] or, for one step, [layers, experts].

        Raises:
            InputError: another shape or type, or a negative number.
        """
        self._check_open()
        block = np.asarray(counts)
        if block.ndim == 2:
            block = block[np.newaxis]
        if block.dtype.kind not in "iu" or block.shape[1:] != self._item:
            message = f"counts must be whole numbers [steps, {self._item[0]} layers, {self._item[1]} experts]"
            raise InputError(message, str(self.path), hint=f"got {block.dtype} of shape {block.shape}")
        wrong = (block < 0) | (block >= 1 << 53)
        if wrong.any():
            step, layer, expert = (int(axis) for axis in np.argwhere(wrong)[0])
            value = int(block[step, layer, expert])
            message = (
                f"step {self.steps + step}, layer column {layer}, expert {expert}: "
                f"{value} cannot be a number of copies"
            )
            raise InputError(message, str(self.path))
        self._file.append(block)
        self._copies += block.sum(axis=(0, 2), dtype=np.int64)
        self.steps += len(block)

    def close(self) -> Manifest:
        """Complete the trace and give it its name."""
        self._check_open()
        tokens = int(self._copies.max()) // int(self._fields["top_k"])
        manifest = self._directory.finish({**self._fields, "tokens": tokens, "steps": self.steps})
        self._open = False
        return manifest
