"""How much goes from each device to each other device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Traffic:
    """Amounts (token copies or bytes) between devices, batched over layers.

    Two forms say the same thing at different cost. ``matrix`` holds every pair. When only totals are
    known (a trace of counts), every source contributes to every destination in proportion to its
    ``share`` and the matrix is the outer product of ``share`` and ``received``, never built.

    Attributes:
        matrix: amounts [layers, devices, devices], first device the source; None in the pooled form.
        share: fraction of a layer's amounts that each source sends, [layers, devices]; only in the
            pooled form.
        inbound: amounts each device receives, own ones included [layers, devices].
    """

    matrix: FloatArray | None
    share: FloatArray | None
    inbound: FloatArray

    @classmethod
    def of_pairs(cls, matrix: npt.ArrayLike) -> Traffic:
        """Build from amounts per pair, [layers, devices, devices] or [devices, devices]."""
        dense = np.asarray(matrix, dtype=np.float64)
        if dense.ndim == 2:
            dense = dense[np.newaxis]
        return cls(dense, None, dense.sum(axis=1))

    @classmethod
    def pooled(cls, inbound: npt.ArrayLike, share: npt.ArrayLike) -> Traffic:
        """Build from totals: amounts received [layers, devices] and each source's share.

        The share is [devices], the same for all layers, or [layers, devices].
        """
        received = np.atleast_2d(np.asarray(inbound, dtype=np.float64))
        fractions = np.broadcast_to(np.asarray(share, dtype=np.float64), received.shape)
        return cls(None, fractions, received)

    @property
    def layers(self) -> int:
        """Number of layers in the batch."""
        return int(self.inbound.shape[0])

    @property
    def devices(self) -> int:
        """Number of devices."""
        return int(self.inbound.shape[1])

    @property
    def outbound(self) -> FloatArray:
        """Amounts each device sends, those to itself included [layers, devices]."""
        if self.matrix is not None:
            return np.asarray(self.matrix.sum(axis=2))
        assert self.share is not None
        return np.asarray(self.inbound.sum(axis=1, keepdims=True) * self.share)

    @property
    def local(self) -> FloatArray:
        """Amounts that stay on their device [layers, devices]."""
        if self.matrix is not None:
            return np.asarray(np.diagonal(self.matrix, axis1=1, axis2=2))
        assert self.share is not None
        return self.inbound * self.share

    def scaled(self, factor: float) -> Traffic:
        """Return the same traffic in another unit, for example copies times bytes per copy."""
        matrix = None if self.matrix is None else self.matrix * factor
        return Traffic(matrix, self.share, self.inbound * factor)

    def reversed(self) -> Traffic:
        """Return the way back (combine): what was received is sent to where it came from."""
        if self.matrix is not None:
            return Traffic.of_pairs(self.matrix.transpose(0, 2, 1))
        total = self.inbound.sum(axis=1, keepdims=True)
        share = np.divide(self.inbound, total, out=np.zeros_like(self.inbound), where=total > 0)
        return Traffic(None, share, self.outbound)

    def dense(self) -> FloatArray:
        """Return amounts per pair [layers, devices, devices], building them if pooled."""
        if self.matrix is not None:
            return self.matrix
        assert self.share is not None
        return self.share[:, :, np.newaxis] * self.inbound[:, np.newaxis, :]
