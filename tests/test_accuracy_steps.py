from __future__ import annotations

import numpy as np
import pytest

from moesim.accuracy import accuracy
from moesim.accuracy.whole_steps import step_points
from moesim.errors import InputError
from moesim.papers import reproduce


def test_whole_steps_are_scored_as_times() -> None:
    report = accuracy(family="end_to_end")
    assert set(report.rows["family"]) == {"end_to_end"}
    assert {"H100-SXM", "H200-SXM", "Ascend-910B-280T"} <= set(report.rows["device"])
    assert np.isfinite(report.points[["measured_s", "predicted_s"]].to_numpy()).all()
    assert (report.points["measured_s"] < 1.0).all()


def test_a_throughput_too_high_is_a_time_too_short() -> None:
    rows = reproduce("deepseek-serving")
    points = next(part for part in step_points("H200-SXM") if len(part))
    published = rows[rows["figure"] == points["shape"].iloc[0]]
    assert points["measured_s"].to_numpy() == pytest.approx(1 / published["published"].to_numpy())
    assert (np.sign(points["error"]).to_numpy() == -np.sign(published["relative_error"]).to_numpy()).all()


def test_a_device_without_steps_or_tables_is_told() -> None:
    with pytest.raises(InputError):
        accuracy(device="MI300X", family="end_to_end")
