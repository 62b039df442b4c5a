"""Which part of a trace is used: layers, tokens by task and phase, past and evaluation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.errors import InputError, unknown_name
from moesim.routing.format import PHASES, row_blocks
from moesim.routing.trace import RoutingTrace

IntArray = npt.NDArray[np.int64]

_ROWS = 1 << 20


@dataclass(frozen=True)
class Window:
    """A trace cut into the past and the part that is simulated, in rows (tokens or steps).

    Attributes:
        past: rows 0 to ``past`` are what placement policies may see.
        first: first row of the evaluation part.
        length: rows of the evaluation part, at least 1.
    """

    past: int
    first: int
    length: int


def split_window(rows: int, profile: float, unit: str, name: str) -> Window:
    """Cut rows into past and evaluation.

    Args:
        rows: rows there are.
        profile: share of the past; 1 makes past and evaluation both the whole trace.
        unit: what a row is, for messages.
        name: file that messages name.

    Raises:
        InputError: a share outside 0..1, or too few rows for two parts.
    """
    if not 0 <= profile <= 1:  # also refuses NaN
        message = f"profile must be a share from 0 to 1, got {profile}"
        raise InputError(message)
    if rows == 0:
        message = f"there is no {unit} to simulate"
        raise InputError(message, name)
    if profile == 1:
        return Window(past=rows, first=0, length=rows)
    past = math.floor(rows * profile) or (1 if profile > 0 else 0)
    if past >= rows:
        message = f"a single {unit} cannot be both the past and what is simulated"
        raise InputError(message, name, hint="set profile to 0 for no past, or to 1 to use it for both")
    return Window(past=past, first=past, length=rows - past)


def layer_columns(trace: RoutingTrace, layers: int | None, mode: str) -> IntArray:
    """Return the trace's layer column that each MoE layer of the model replays, int64 [layers].

    Raises:
        InputError: an unknown mode, no layer, or another number of layers under ``exact``.
    """
    if mode not in ("exact", "cycle"):
        raise unknown_name("layer mode", mode, ("exact", "cycle"))
    recorded = len(trace.layers)
    wanted = recorded if layers is None else layers
    if wanted < 1:
        message = f"a routing source needs at least one MoE layer, got {wanted}"
        raise InputError(message)
    if mode == "exact" and wanted != recorded:
        message = f"the trace '{trace.name}' has {recorded} MoE layers, the model has {wanted}"
        raise InputError(message, hint="'layers: cycle' repeats or leaves out layers of the trace")
    return np.arange(wanted, dtype=np.int64) % recorded


def select_tokens(trace: RoutingTrace, task: str | None, phase: str | None) -> IntArray | None:
    """Return the tokens of a task and phase, int64 in rising order; None stands for all.

    Raises:
        InputError: a task or phase that the trace does not have, or no token that matches.
    """
    wanted: list[tuple[npt.NDArray[np.integer], int]] = []
    if task is not None:
        if trace.task is None:
            message = (
                f"the trace does not say which task a token belongs to, so task '{task}' cannot be chosen"
            )
            raise InputError(message, str(trace.path))
        if task not in trace.tasks:
            raise unknown_name("task in this trace", task, trace.tasks).at(str(trace.path))
        wanted.append((trace.task, trace.tasks.index(task)))
    if phase is not None:
        if phase not in PHASES:
            raise unknown_name("phase", phase, PHASES)
        if trace.phase is None:
            message = f"the trace does not tell prefill from decode, so phase '{phase}' cannot be chosen"
            raise InputError(message, str(trace.path))
        wanted.append((trace.phase, PHASES.index(phase)))
    if not wanted:
        return None
    found: list[IntArray] = []
    for part in row_blocks(trace.tokens, _ROWS):
        keep = np.ones(part.stop - part.start, dtype=bool)
        for column, value in wanted:
            keep &= np.asarray(column[part]) == value
        found.append(np.flatnonzero(keep).astype(np.int64) + part.start)
    selected = np.concatenate(found) if found else np.zeros(0, dtype=np.int64)
    if selected.size == 0:
        message = f"no token of the trace has task {task or 'any'} and phase {phase or 'any'}"
        raise InputError(message, str(trace.path))
    return selected
