"""Whole steps: published times and throughputs of serving and training against steps priced from kernels.

The figures are those that ``moesim reproduce`` holds, as far as they are times of a whole step or tokens per
second; a throughput counts as the time per token and device. Nothing is fitted to any of them: constants come
from timings of single kernels and collectives. So every point is unseen, and the protocol is called
``leave_model_out``, though timings of the same model's kernels may have taken part in the constants.
"""

from __future__ import annotations

from typing import Any, Final

import pandas as pd

from moesim.accuracy.score import POINT_COLUMNS
from moesim.hardware import load_cluster
from moesim.papers import load_paper, paper_names, reproduce
from moesim.papers.paper import Figure, Paper

NAME: Final = "end_to_end"

TIMES: Final = ("latency_ms", "tokens_per_s_per_device")
"""Quantities that are times of whole steps, or their inverse."""


def step_points(device: str | None = None) -> list[pd.DataFrame]:
    """Return scored points of whole steps, one frame per paper that has any.

    Args:
        device: catalogue name; all devices by default.
    """
    found = []
    for name in paper_names():
        paper = load_paper(name)
        devices = {
            figure.figure: _device(paper, figure) for figure in paper.figures if figure.quantity in TIMES
        }
        if devices and (device is None or device in devices.values()):
            points = _points(name, devices, {figure.figure: figure for figure in paper.figures})
            found.append(points if device is None else points[points["device"] == device])
    return found


def _device(paper: Paper, figure: Figure) -> str:
    """Return the device that a figure was measured on."""
    cluster: dict[str, Any] = paper.scenarios[figure.scenario]["cluster"]
    if "device" not in cluster:
        return load_cluster(str(cluster["name"])).devices[0].name
    device = cluster["device"]
    return str(device["base"] if isinstance(device, dict) else device)


def _points(paper: str, devices: dict[str, str], figures: dict[str, Figure]) -> pd.DataFrame:
    """Return the points of a paper's figures that are times."""
    rows = reproduce(paper)
    rows = rows[rows["figure"].isin(list(devices))]
    speed = rows["figure"].map(lambda name: figures[name].quantity == "tokens_per_s_per_device").to_numpy()
    times = {
        name: (1.0 / rows[column]).where(speed, rows[column] * 1e-3)
        for name, column in {"measured_s": "published", "predicted_s": "predicted"}.items()
    }
    frame = pd.DataFrame(times).assign(
        device=rows["figure"].map(devices),
        family=NAME,
        dtype="model",
        backend=paper,
        source="analytic",
        protocol="leave_model_out",
        shape=rows["figure"],
        case=rows["point"],
    )
    frame["error"] = frame["predicted_s"] / frame["measured_s"] - 1.0
    return frame[list(POINT_COLUMNS)].reset_index(drop=True)
