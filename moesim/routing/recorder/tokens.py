"""A small reversible tokeniser: frequent words and signs as one token, everything else as bytes.

Tokens of about a word make the routing comparable to that of language models, where the token id
decides most of it; a byte model would route letters.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Final

import numpy as np
import numpy.typing as npt

BYTES: Final = 256
_PIECE: Final = re.compile(r" ?[A-Za-z]+| ?\d| ?[^\sA-Za-z\d]{1,3}|\n *|\s")
_LONGEST: Final = 16


class PieceTokeniser:
    """Split text into pieces (a word with its leading space, a few signs, a line break with its indent).

    The ids 0..255 are bytes; the pieces that are frequent in the training text follow. A piece that is
    not in the vocabulary is cut into the longest known prefixes, in the last resort single bytes.

    Args:
        texts: training texts, in a fixed order.
        vocabulary: number of token ids in all; at least 257.
    """

    def __init__(self, texts: Iterable[str], vocabulary: int) -> None:
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(_PIECE.findall(text))
        frequent = sorted(
            (piece for piece in counts if 1 < len(piece.encode("utf-8", "replace")) <= _LONGEST),
            key=lambda piece: (-counts[piece], piece),
        )[: vocabulary - BYTES]
        self.pieces: tuple[bytes, ...] = tuple(piece.encode("utf-8", "replace") for piece in frequent)
        self.vocabulary = vocabulary
        self._ids = {piece: BYTES + index for index, piece in enumerate(self.pieces)}
        self._known: dict[str, tuple[int, ...]] = {}

    def encode(self, text: str) -> npt.NDArray[np.int64]:
        """Return the token ids of a text."""
        ids: list[int] = []
        for piece in _PIECE.findall(text):
            known = self._known.get(piece)
            if known is None:
                known = self._known[piece] = tuple(self._cut(piece.encode("utf-8", "replace")))
            ids.extend(known)
        return np.array(ids, dtype=np.int64)

    def decode(self, ids: npt.NDArray[np.int64]) -> str:
        """Return the text of token ids; the inverse of ``encode``."""
        parts = (bytes([i]) if i < BYTES else self.pieces[i - BYTES] for i in ids.tolist())
        return b"".join(parts).decode("utf-8", "replace")

    def _cut(self, piece: bytes) -> Iterable[int]:
        at = 0
        while at < len(piece):
            for end in range(min(len(piece), at + _LONGEST), at + 1, -1):
                known = self._ids.get(piece[at:end])
                if known is not None:
                    yield known
                    at = end
                    break
            else:
                yield piece[at]
                at += 1
