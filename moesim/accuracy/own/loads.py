"""How the pairs of an own MoE timing spread over the experts: a named distribution, or counts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Final

import numpy as np
import pandas as pd

from moesim.errors import InputError
from moesim.hardware.grouped_kernels import GroupCounts, GroupedKernel, count_groups
from moesim.measured.moe_loads import group_counts

_DIST: Final = re.compile(r"balanced|power_law_(\d+(\.\d+)?)")


def check_load(row: Mapping[str, Any], values: Mapping[str, str]) -> dict[str, Any]:
    """Return ``dist`` and ``counts`` of a row, one of them empty.

    Raises:
        InputError: both or none are given, or they do not fit the row's experts and tokens.
    """
    dist, counts = values.get("dist", ""), values.get("counts", "")
    if bool(dist) == bool(counts):
        message = "a row of family 'moe' needs one of 'dist' and 'counts'"
        raise InputError(message, hint="for example dist: balanced, or counts: 12;0;7;3 of the experts here")
    if row["experts"] % row["ep"]:
        message = f"'experts' must be a multiple of 'ep', got {row['experts']} and {row['ep']}"
        raise InputError(message)
    if row["topk"] > row["experts"]:
        message = f"'topk' must be at most 'experts', got {row['topk']} of {row['experts']}"
        raise InputError(message)
    if dist and str(row["backend"]).endswith("/loop"):
        message = f"rows of '{row['backend']}' need 'counts': what a loop costs hangs on every expert"
        raise InputError(message)
    if dist:
        match = _DIST.fullmatch(dist)
        if match is None or match.group(1) in {"1", "1.0"}:
            message = f"'dist' must be balanced or power_law_A with A other than 1, got '{dist[:40]}'"
            raise InputError(message, hint="any other load is told by 'counts'")
        return {"dist": dist, "counts": ""}
    here = row["experts"] // row["ep"]
    parts = counts.split(";")
    if not all(re.fullmatch(r"\d{1,12}", part.strip()) for part in parts) or len(parts) != here:
        message = f"'counts' must be {here} whole numbers joined by ';' (experts / ep), got '{counts[:40]}'"
        raise InputError(message)
    pairs = sum(int(part) for part in parts)
    limit = row["tokens"] * min(row["topk"], here)
    if not 0 < pairs <= limit or (row["ep"] == 1 and pairs != limit):
        bound = f"{limit}" if row["ep"] == 1 else f"between 1 and {limit}"
        message = f"'counts' sums to {pairs} pairs; expected {bound} (tokens x topk)"
        raise InputError(message)
    return {"dist": "", "counts": counts}


def own_counts(rows: pd.DataFrame, kernel: GroupedKernel) -> GroupCounts:
    """Return the counts of own MoE rows under a kernel's choice of blocks, arrays [rows]."""
    parts: list[tuple[Any, GroupCounts]] = []
    told = (rows["counts"] != "").to_numpy()
    if (~told).any():
        named = rows[~told]
        spelled = named.rename(columns={"topk": "top_k", "dist": "distribution"})
        spelled = spelled.astype(dict.fromkeys(("tokens", "top_k", "experts", "ep"), int))
        parts.append((np.flatnonzero(~told), group_counts(spelled.assign(slots=spelled["experts"]), kernel)))
    for place in np.flatnonzero(told):
        row = rows.iloc[place]
        groups = np.array([[float(part) for part in str(row["counts"]).split(";")]])
        tokens = np.array([float(row["tokens"])])
        parts.append(([place], count_groups(groups, kernel, top_k=int(row["topk"]), tokens=tokens)))
    order = np.argsort(np.concatenate([places for places, _ in parts]), kind="stable")
    names = [field.name for field in fields(GroupCounts)]
    joined = {name: np.concatenate([getattr(counts, name) for _, counts in parts]) for name in names}
    return GroupCounts(**{name: values[order] for name, values in joined.items()})
