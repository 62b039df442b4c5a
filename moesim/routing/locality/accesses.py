"""Sequences of tokens and the experts they use, as caches see them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from moesim.errors import InputError

IntArray = npt.NDArray[np.int64]
Ids = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True, eq=False)
class Accesses:
    """Which experts the tokens of some sequences use; an access is one (token, layer, expert).

    Use :meth:`of`. The longest sequence comes first, because work on all sequences at once then always
    concerns a leading part of them.

    Attributes:
        ids: expert ids, [tokens, caches, per_token], sequences one after the other; the experts of a token
            are looked up together and then taken in this order.
        starts: first token of each sequence, int64 [sequences], by falling length.
        lengths: tokens of each sequence, int64 [sequences], falling.
        experts: experts per cache.
    """

    ids: Ids
    starts: IntArray
    lengths: IntArray
    experts: int

    @classmethod
    def of(cls, ids: npt.ArrayLike, lengths: npt.ArrayLike | None = None, *, experts: int) -> Self:
        """Check and take routing decisions.

        Args:
            ids: expert ids, [tokens, layers, top_k], in the order in which a token takes its experts (the
                published measure: by falling gate weight).
            lengths: tokens per sequence, [sequences], adding up to all tokens; None: one sequence.
            experts: routed experts per layer.

        Raises:
            InputError: no tokens, wrong shapes, an id out of range, or an expert twice in one token.
        """
        array = np.asarray(ids)
        if array.ndim != 3 or not array.size or not np.issubdtype(array.dtype, np.integer):
            message = f"ids must be whole numbers of shape [tokens, layers, top_k], got shape {array.shape}"
            raise InputError(message)
        given = [len(array)] if lengths is None else lengths
        sizes = np.atleast_1d(np.asarray(given, dtype=np.int64))
        if sizes.ndim != 1 or not sizes.size or sizes.min() < 1 or int(sizes.sum()) != len(array):
            message = f"the lengths of the sequences must be positive and add up to {len(array)} tokens"
            raise InputError(message)
        if int(array.min()) < 0 or int(array.max()) >= experts:
            message = f"an expert id is outside 0..{experts - 1}"
            raise InputError(message)
        ranked = np.sort(array, axis=2)
        if bool((ranked[..., 1:] == ranked[..., :-1]).any()):
            message = "a token uses an expert twice in one layer"
            raise InputError(message)
        order = np.argsort(-sizes, kind="stable")
        return cls(array, (np.cumsum(sizes) - sizes)[order], sizes[order], experts)

    def together(self) -> Self:
        """Return the same tokens in front of one cache for all layers.

        The accesses of a token in all layers are one lookup, layer after layer; experts are numbered
        ``layer * experts + expert``.
        """
        tokens, caches, per_token = self.ids.shape
        wide = self.ids.astype(np.int32) + np.arange(caches, dtype=np.int32)[:, np.newaxis] * self.experts
        ids = wide.reshape(tokens, 1, caches * per_token)
        return type(self)(ids, self.starts, self.lengths, self.experts * caches)

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return int(self.lengths[0])

    def active(self, position: int) -> int:
        """Return how many sequences, from the first, have a token at a position."""
        return int(np.searchsorted(-self.lengths, -position, side="left"))

    def at(self, position: int, sequences: int) -> tuple[IntArray, IntArray]:
        """Return the tokens at a position of the leading sequences, and their experts.

        Sequences that have ended give their last token again.

        Returns:
            Token numbers, int64 [sequences], and experts, int64 [per_token, sequences * caches].
        """
        place = np.minimum(position, self.lengths[:sequences] - 1)
        tokens = self.starts[:sequences] + place
        rows = self.ids[tokens].reshape(-1, self.ids.shape[2])
        return tokens, np.ascontiguousarray(rows.T, dtype=np.int64)
