"""Who holds how many bytes on which device, and what the peak was made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

_FIRST_ROWS = 8
_MAX_BYTES = 2**53


@dataclass(frozen=True)
class Overflow:
    """The first moment at which a device held more than it has.

    Attributes:
        device: device index.
        when_s: time (s).
        label: what the caller said was going on.
        needed: bytes held at that moment.
        capacity: bytes the device has.
        holders: owners and their bytes, the largest first.
    """

    device: int
    when_s: float
    label: object
    needed: int
    capacity: int
    holders: tuple[tuple[str, int], ...]


class MemoryLedger:
    """Bytes per owner and device in one memory tier.

    Amounts are whole bytes (fractions are rounded up), so that sums are exact. Running out of memory
    is a result: bytes beyond the capacity are counted like all others and reported in ``overflows``.

    Args:
        capacity: bytes that each device has [devices].
        tier: name of the memory.

    Raises:
        ValueError: a capacity is negative or not finite.
    """

    def __init__(self, capacity: npt.ArrayLike, tier: str = "HBM") -> None:
        self.capacity: IntArray = _whole_bytes(np.atleast_1d(np.asarray(capacity)))
        self.tier = tier
        devices = self.capacity.size
        self._rows: dict[str, int] = {}
        self._held: IntArray = np.zeros((_FIRST_ROWS, devices), dtype=np.int64)
        self._at_peak: IntArray = np.zeros((_FIRST_ROWS, devices), dtype=np.int64)
        self._current: IntArray = np.zeros(devices, dtype=np.int64)
        self._peak: IntArray = np.zeros(devices, dtype=np.int64)
        self._peak_when: FloatArray = np.zeros(devices)
        self._labels: list[object] = [None]
        self._peak_label: IntArray = np.zeros(devices, dtype=np.int64)
        self._overflowed = np.zeros(devices, dtype=bool)
        self._overflows: list[Overflow] = []

    @property
    def devices(self) -> int:
        """Number of devices."""
        return int(self.capacity.size)

    @property
    def owners(self) -> tuple[str, ...]:
        """Every owner that ever held something, in order of appearance."""
        return tuple(self._rows)

    @property
    def current(self) -> IntArray:
        """Bytes held now [devices]."""
        return self._current.copy()

    @property
    def peak(self) -> IntArray:
        """Most bytes ever held at one moment [devices]."""
        return self._peak.copy()

    @property
    def peak_when(self) -> FloatArray:
        """Time at which each peak was first reached, s [devices]."""
        return self._peak_when.copy()

    @property
    def peak_label(self) -> list[object]:
        """What was going on when each peak was first reached; None where nothing was ever held."""
        return [self._labels[index] for index in self._peak_label]

    @property
    def at_peak(self) -> dict[str, IntArray]:
        """Bytes per owner at the moment of each device's peak [devices]; they sum to ``peak``."""
        return {owner: self._at_peak[row].copy() for owner, row in self._rows.items()}

    @property
    def overflows(self) -> list[Overflow]:
        """The first overflow of every device that had one, in order of occurrence."""
        return list(self._overflows)

    def held(self, owner: str) -> IntArray:
        """Return what an owner holds now [devices], zero for one never seen."""
        row = self._rows.get(owner)
        return np.zeros(self.devices, dtype=np.int64) if row is None else self._held[row].copy()

    def hold(
        self,
        amounts: Mapping[str, npt.ArrayLike],
        when_s: float,
        label: object = None,
        devices: npt.ArrayLike | slice | None = None,
    ) -> None:
        """Set what some owners hold from now on, in place of what they held before, all at once.

        Args:
            amounts: owner -> bytes, one number for all devices concerned or one for each.
            when_s: time (s).
            label: what is going on, kept for the peak and for overflows.
            devices: distinct indices of the devices concerned; all when None.

        Raises:
            ValueError: an amount is negative, not finite or beyond 2**53 bytes.
        """
        chosen = slice(None) if devices is None else devices
        if not isinstance(chosen, slice):
            chosen = np.atleast_1d(np.asarray(chosen))
        wanted = {owner: _whole_bytes(np.asarray(amount)) for owner, amount in amounts.items()}
        for owner, amount in wanted.items():
            row = self._row(owner)
            self._current[chosen] += amount - self._held[row, chosen]
            self._held[row, chosen] = amount
        higher = self._current > self._peak
        if not higher.any():
            return
        self._peak[higher] = self._current[higher]
        self._peak_when[higher] = when_s
        if self._labels[-1] != label:
            self._labels.append(label)
        self._peak_label[higher] = len(self._labels) - 1
        self._at_peak[:, higher] = self._held[:, higher]
        fresh = higher & (self._current > self.capacity) & ~self._overflowed
        if fresh.any():
            self._report(fresh, when_s, label)

    def release(
        self, owner: str, when_s: float, label: object = None, devices: npt.ArrayLike | slice | None = None
    ) -> None:
        """Let an owner hold nothing from now on; no error when it held nothing."""
        if owner in self._rows:
            self.hold({owner: 0}, when_s, label, devices)

    def _row(self, owner: str) -> int:
        """Return the row of an owner, making room for a new one."""
        row = self._rows.setdefault(owner, len(self._rows))
        if row == self._held.shape[0]:
            room = np.zeros_like(self._held)
            self._held = np.concatenate([self._held, room])
            self._at_peak = np.concatenate([self._at_peak, room])
        return row

    def _report(self, fresh: npt.NDArray[np.bool_], when_s: float, label: object) -> None:
        """Record the first overflow of the marked devices."""
        self._overflowed |= fresh
        for device in np.flatnonzero(fresh):
            column = self._held[: len(self._rows), device]
            ranked = sorted(zip(self._rows, column.tolist(), strict=True), key=lambda pair: -pair[1])
            self._overflows.append(
                Overflow(
                    device=int(device),
                    when_s=float(when_s),
                    label=label,
                    needed=int(self._current[device]),
                    capacity=int(self.capacity[device]),
                    holders=tuple((owner, held) for owner, held in ranked if held > 0),
                )
            )


def _whole_bytes(amount: npt.NDArray[np.generic]) -> IntArray:
    """Round up to whole bytes.

    Raises:
        ValueError: an amount is negative, not finite or beyond 2**53.
    """
    numbers = np.ceil(amount.astype(np.float64))
    if not bool(np.all((numbers >= 0) & (numbers <= _MAX_BYTES))):
        message = "bytes must be finite, not negative and at most 2**53"
        raise ValueError(message)
    return numbers.astype(np.int64)
