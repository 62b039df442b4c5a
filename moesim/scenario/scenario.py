"""A scenario that has been read and checked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from moesim.errors import InputError
from moesim.scenario.how import EngineSection, MemorySection
from moesim.scenario.schema import ScenarioSpec
from moesim.scenario.tokens import WorkloadSection
from moesim.scenario.tree import plain
from moesim.yamlio import Document, Place


@dataclass(frozen=True, eq=False)
class Scenario:
    """What to simulate, as typed objects that remember where they were written.

    Attributes:
        spec: the scenario's sections.
        document: what was written, with places; files that were extended and overrides are merged in.
        folder: directory from which the scenario's paths count.
    """

    spec: ScenarioSpec
    document: Document
    folder: Path

    @property
    def name(self) -> str:
        """Name shown in results."""
        return self.spec.name

    @property
    def seed(self) -> int:
        """Seed of every random draw."""
        return self.spec.seed

    @property
    def description(self) -> str:
        """What the scenario is for."""
        return self.spec.description

    @property
    def workload(self) -> WorkloadSection:
        """Which tokens arrive when."""
        return self.spec.workload

    @property
    def memory(self) -> MemorySection:
        """What else stands in device memory."""
        return self.spec.memory

    @property
    def engine(self) -> EngineSection:
        """How closely the run is simulated and recorded."""
        return self.spec.engine

    @property
    def policy_names(self) -> list[str]:
        """Names of the policies to compare; the first is the baseline."""
        return [policy.name for policy in self.spec.policies]

    @cached_property
    def _resolved(self) -> dict[str, Any]:
        from moesim.scenario.policy import resolved_policy

        whole: dict[str, Any] = plain(self.spec)
        return whole | {"policies": [resolved_policy(self, policy) for policy in self.spec.policies]}

    def resolved(self) -> dict[str, Any]:
        """Return everything the scenario says or leaves to defaults, as plain JSON data.

        Paths count from ``folder``. Read again, it gives the same scenario.

        Raises:
            InputError: a policy or one of its parameters is not known.
        """
        copied: dict[str, Any] = json.loads(json.dumps(self._resolved))
        return copied

    @cached_property
    def hash(self) -> str:
        """Fingerprint of the resolved scenario: equal for equal content, wherever the file lies."""
        text = json.dumps(self._resolved, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def path(self, relative: str) -> Path:
        """Return a path of the scenario as one that can be opened from here."""
        return self.folder / relative

    def place(self, path: Sequence[str | int]) -> Place:
        """Return where a value (or the nearest thing above it) was written."""
        return self.document.place(path)

    def error(self, path: Sequence[str | int], message: str, hint: str | None = None) -> InputError:
        """Build the error for what is wrong at a path."""
        return self.document.error(path, message, hint)
