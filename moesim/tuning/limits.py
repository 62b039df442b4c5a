"""Memory limits that no settings can keep."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moesim.errors import InputError
from moesim.units import format_bytes

if TYPE_CHECKING:
    from moesim.policies.base import Policy
    from moesim.tuning.trial import Trial


def check_limit(first: Trial, policy: Policy, limit: float | None) -> None:
    """Refuse a limit below what a device holds whatever the policy decides, before a long search.

    Args:
        first: the trial with the policy's own settings.
        policy: what is searched.
        limit: most bytes that a device may hold.

    Raises:
        InputError: the limit is below it.
    """
    floor = first.measured.floor_bytes
    if limit is not None and floor is not None and limit < floor:
        message = f"no settings of '{policy.name}' can stay within {format_bytes(limit)}"
        hint = f"weights outside the experts, KV cache and reserve alone take {format_bytes(floor)}"
        raise InputError(message, "--memory-limit", hint=hint)
