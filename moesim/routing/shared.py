"""Loads drawn once and read by every run that needs them, in this process and in others.

Policies are compared on the same steps, and drawing a step costs as much as simulating it. A folder
holds the steps that were drawn, each in a file of its own in the narrowest integers that fit.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np

from moesim.routing.affinity import Affinity
from moesim.routing.load import IntArray, Load
from moesim.routing.source import RoutingSource

_AHEAD: Final = 4
"""Steps that a run may draw before their time while another process draws the one that it needs."""

_PAUSE_S: Final = 0.0005
_PATIENCE_S: Final = 30.0
_MOST_BYTES: Final = 8 << 30


class SharedLoads:
    """A routing source whose loads are kept in a folder.

    Loads are the source's own, number by number. Where the folder is full, or cannot be written, they
    are drawn again.
    """

    def __init__(self, source: RoutingSource, folder: str | Path, steps: int) -> None:
        """Wrap a source.

        Args:
            source: whose loads are shared.
            folder: where they are kept; every source and tokens per device need a folder of their own.
            steps: steps that will be asked for.
        """
        self.source = source
        self.folder = Path(folder)
        self.steps = steps
        self._left = min(_MOST_BYTES, shutil.disk_usage(self.folder).free // 4)

    @property
    def name(self) -> str:
        """What reports call the source."""
        return self.source.name

    @property
    def experts(self) -> int:
        """Logical experts per layer."""
        return self.source.experts

    @property
    def top_k(self) -> int:
        """Experts per token."""
        return self.source.top_k

    @property
    def layers(self) -> int:
        """MoE layers."""
        return self.source.layers

    @cached_property
    def _profile(self) -> IntArray:
        return self.source.profile()

    @cached_property
    def _affinity(self) -> Affinity:
        return self.source.affinity()

    def profile(self) -> IntArray:
        """Return copies per expert in the past that placement may look at, int64 [layers, experts]."""
        return self._profile.copy()

    def windows(self, count: int) -> IntArray:
        """Return the past in ``count`` equal parts, in order, int64 [count, layers, experts]."""
        return self.source.windows(count)

    def affinity(self) -> Affinity:
        """Return which experts shared tokens in the past."""
        return self._affinity

    def steps_available(self, tokens_per_step: int) -> int | None:
        """Return how many steps pass before routing repeats itself; None when it never does."""
        return self.source.steps_available(tokens_per_step)

    def load(self, step: int, tokens: IntArray) -> Load:
        """Return the load of a step; ``tokens`` says how many each device contributes, int64 [devices]."""
        found = self._read(step, tokens)
        if found is not None:
            return found
        if self._claim(step, tokens):
            return self._draw(step, tokens)
        # Another process draws it; meanwhile there are others to draw.
        until, ahead = time.monotonic() + _PATIENCE_S, step + 1
        while (found := self._read(step, tokens)) is None and time.monotonic() < until:
            if self._claim(step, tokens):  # whoever had it gave up
                break
            if ahead < min(self.steps, step + 1 + _AHEAD):
                if not self._path(ahead, tokens).exists() and self._claim(ahead, tokens):
                    self._draw(ahead, tokens)
                ahead += 1
            else:
                time.sleep(_PAUSE_S)
        return found if found is not None else self.source.load(step, tokens)

    def _path(self, step: int, tokens: IntArray) -> Path:
        mark = hashlib.sha256(np.asarray(tokens, dtype=np.int64).tobytes()).hexdigest()[:16]
        return self.folder / f"{mark}-{step}.npy"

    def _claim(self, step: int, tokens: IntArray) -> bool:
        """Say whether this run is the first to need a step; so it is where nothing can be written."""
        try:
            path = self._path(step, tokens).with_suffix(".claim")
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            return False
        except OSError:
            return True
        return True

    def _read(self, step: int, tokens: IntArray) -> Load | None:
        try:
            kept = np.load(self._path(step, tokens), allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        # Kept source by source, which is how policies go through them.
        return Load(kept.astype(np.int64).transpose(1, 0, 2), np.asarray(tokens, dtype=np.int64))

    def _draw(self, step: int, tokens: IntArray) -> Load:
        """Draw a step, keep it for others, and return it."""
        load = self.source.load(step, tokens)
        by_source = np.ascontiguousarray(load.counts.transpose(1, 0, 2))
        kept = by_source.astype(np.min_scalar_type(int(by_source.max(initial=0))))
        path = self._path(step, tokens)
        work = path.with_suffix(f".{os.getpid()}")
        try:
            if kept.nbytes <= self._left:
                with work.open("wb") as file:
                    np.save(file, kept)
                work.replace(path)
                self._left -= kept.nbytes
            else:
                path.with_suffix(".claim").unlink()
        except OSError:
            self._left = 0
            work.unlink(missing_ok=True)
            path.with_suffix(".claim").unlink(missing_ok=True)
        return Load(by_source.transpose(1, 0, 2), load.tokens)
