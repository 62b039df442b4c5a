"""Questions to the memory table: who peaks, who ran out, holding what."""

from __future__ import annotations

from typing import Any, cast

import pandas as pd


def own_memory(memory: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of each device's own tier: the first one listed for it."""
    first = memory.drop_duplicates("device").set_index("device")["tier"]
    return memory[memory["tier"] == memory["device"].map(first)]


def fullest_device(memory: pd.DataFrame) -> int | None:
    """Return the device with the largest share of its own memory in use; None without rows."""
    own = own_memory(memory)
    if own.empty:
        return None
    share = own["peak_bytes"] / own["capacity_bytes"]
    return int(own["device"].to_numpy()[int(share.to_numpy().argmax())])


def holding(memory: pd.DataFrame, device: int) -> dict[str, int]:
    """Return what each owner held at the peak of a device's own memory (bytes), largest first."""
    own = own_memory(memory)
    rows = own[own["device"] == device].sort_values(["bytes", "owner"], ascending=[False, True])
    return {str(owner): int(held) for owner, held in zip(rows["owner"], rows["bytes"], strict=True)}


def overflows(memory: pd.DataFrame) -> list[dict[str, Any]]:
    """Return one entry for each device and tier that ran out of memory, in device order.

    Returns:
        Entries with ``device``, ``tier``, ``when`` (step, layer, stage), ``needed_bytes``,
        ``capacity_bytes`` and ``holding`` (bytes by owner, largest first).
    """
    entries = []
    for key, rows in memory[memory["out_of_memory"]].groupby(["device", "tier"], sort=True):
        device, tier = cast("tuple[int, str]", key)
        ordered = rows.sort_values(["bytes", "owner"], ascending=[False, True])
        first = ordered.iloc[0]
        entries.append(
            {
                "device": int(device),
                "tier": str(tier),
                "when": {
                    "step": int(first["step"]),
                    "layer": int(first["layer"]),
                    "stage": str(first["stage"]),
                },
                "needed_bytes": int(first["peak_bytes"]),
                "capacity_bytes": int(first["capacity_bytes"]),
                "holding": {
                    str(owner): int(held)
                    for owner, held in zip(ordered["owner"], ordered["bytes"], strict=True)
                },
            }
        )
    return entries
