from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.errors import InputError
from moesim.hardware.catalogue import load_device
from moesim.measured import tables
from moesim.measured.between import between, guided
from moesim.measured.expert_curves import ExpertCurves
from moesim.measured.grid import Grid
from moesim.measured.notes import Notes, outside
from moesim.measured.source import MeasuredTables, closest

POINTS = np.array([1.0, 4.0, 16.0, 64.0])
positive = st.floats(1e-6, 1e6)


@given(st.tuples(positive, positive), st.tuples(positive, positive), st.floats(0.0, 1.0))
def test_a_reading_lies_between_its_two_points_and_meets_both(
    sizes: tuple[float, float], times: tuple[float, float], share: float
) -> None:
    low, high = sorted(sizes)
    x = np.array([low, low + share * (high - low), high])
    read = between(x, np.array(low), np.array(high), np.array(times[0]), np.array(times[1]))
    if low < high:
        assert read[0] == times[0]
        assert read[2] == times[1]
    assert min(times) * (1 - 1e-9) <= read[1] <= max(times) * (1 + 1e-9)


@given(positive, positive, positive)
def test_units_do_not_matter(x: float, unit: float, tick: float) -> None:
    sizes, times = (np.array(v) for v in (x, x * 3)), (np.array(2.0), np.array(9.0))
    plain = between(np.array(x * 2), *sizes, *times)
    sizes = (np.array(v * unit) for v in (x, x * 3))
    scaled = between(np.array(x * 2 * unit), *sizes, *(time * tick for time in times))
    assert scaled == pytest.approx(plain * tick)


@pytest.mark.parametrize("law", [lambda x: 5 + 2 * x, lambda x: 2 * x + 0.3 * x**2, lambda x: 7 + 0 * x])
def test_a_launch_and_a_rate_and_a_square_are_read_exactly(law) -> None:
    x = np.geomspace(1, 64, 50)
    read = Grid((POINTS,), law(POINTS)).read(x)
    assert read.inside.all()
    assert read.seconds == pytest.approx(law(x))


def test_a_model_says_how_time_is_spread_and_not_how_much() -> None:
    x = np.array([2.0, 8.0, 16.0])
    sides = [np.full(3, value) for value in (1.0, 16.0, 100.0, 900.0)]
    model = np.minimum(x, 4.0)  # all of the rise comes early
    read = guided(x, *sides, 7 * model, np.full(3, 7.0), np.full(3, 28.0))
    assert read == pytest.approx([100 + 800 / 3, 900, 900])
    silent = guided(x, *sides, model, np.full(3, 4.0), np.full(3, 4.0))
    assert silent.tolist() == between(x, *sides).tolist()


def test_nothing_is_read_beyond_the_ends_or_across_a_hole() -> None:
    table = np.array([[1.0, 2.0, 3.0], [2.0, 4.0, np.nan]])
    grid = Grid((np.array([1.0, 2.0]), np.array([10.0, 20.0, 30.0])), table)
    rows, sizes = np.array([1.5, 1.5, 0.9, 1.0, 2.0, 1.5, 1.0]), np.array([15, 25, 15, 30, 30, 9, np.nan])
    read = grid.read(rows, sizes)
    assert read.inside.tolist() == [True, False, False, True, False, False, False]
    assert np.isfinite(read.seconds).all()
    assert (read.seconds[~read.inside] == 0).all()
    assert read.seconds[3] == 3.0
    for row, size, seconds, inside in zip(rows, sizes, *read, strict=True):
        alone = grid.read(row, size)
        assert (alone.inside, alone.seconds) == (inside, pytest.approx(seconds))
        mixed = grid.read(row, np.full((2, 3), size))
        assert mixed.seconds.shape == mixed.inside.shape == (2, 3)
        assert mixed.seconds == pytest.approx(np.full((2, 3), seconds))


def test_the_quickest_of_several_timings_of_one_size_counts() -> None:
    grid = Grid.of([[2, 1, 2], [5, 5, 5]], [4.0, 1.0, 3.0])
    assert grid.read(2, 5).seconds == 3.0
    assert grid.read(1.5, 5).inside


def curves(shares: dict[int, np.ndarray] | None = None) -> ExpertCurves:
    grids = {4: Grid((POINTS,), POINTS + 3), 8: Grid((POINTS * 2,), POINTS * 2 + 6)}
    return ExpertCurves(dict.fromkeys(grids, "vllm/triton"), "balanced", grids, shares)


def test_experts_between_measured_numbers_are_read_at_the_same_rows() -> None:
    read = curves().seconds(np.array([0.0, 1.0, 2.0, 10.0, 64.0, 100.0]), 6)
    assert read.inside.tolist() == [True, False, True, True, True, False]
    assert read.seconds == pytest.approx([0, 0, 2 + 4.5, 10 + 4.5, 64 + 4.5, 0])
    assert not curves().seconds(np.array([10.0]), 3).inside.any()
    assert curves().reach(6) == "rows 2..64"
    assert curves().reach(3) == "experts per device 4..8"


def test_counts_are_whole_and_all_there() -> None:
    rows = np.array([[0, 1, 7], [8, 33, 64]])
    even = curves().counts(rows, 6)
    assert even.shape == (2, 3, 6)
    assert (even.sum(axis=-1) == rows).all()
    assert np.ptp(even, axis=-1).max() == 1
    skewed = curves({4: np.tile([0.7, 0.2, 0.1, 0.0], (4, 1)), 8: np.full((4, 8), 1 / 8)})
    assert skewed.counts(np.array([20]), 4).tolist() == [[14, 4, 2, 0]]
    assert skewed.counts(np.array([40]), 5).sum() == 40
    assert (np.diff(skewed.counts(np.array([40]), 5)) <= 0).all()


def test_a_guided_curve_still_meets_its_points() -> None:
    told = curves().seconds(POINTS, 4, lambda rows, experts: np.sqrt(rows) * experts)
    assert told.seconds == pytest.approx(POINTS + 3)
    between_them = curves().seconds(np.array([9.0]), 4, lambda rows, experts: np.sqrt(rows))
    assert between_them.seconds == pytest.approx([7 + 12 * 0.5])


def test_notes_say_everything_once_in_one_order() -> None:
    first, second = Notes(), Notes()
    first.add("b", 2)
    first.add("a")
    first.add("never", 0)
    second.add("b", 3)
    first.merge([second, Notes()])
    assert first.texts() == ("a", "b (5 times)")
    assert len(first) == 2
    text = outside("experts of [7168 x 2048], fp8", "H200-SXM", "rows 1..16384")
    assert text.endswith("outside the measured range of H200-SXM (rows 1..16384), analytic model used")
    assert "not measured on L4" in outside("experts", "L4", "")


def test_without_the_package_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "PACKAGE", "package_that_is_not_there")
    tables.data_root.cache_clear()
    tables.measured_devices.cache_clear()
    with pytest.raises(InputError, match="not installed") as caught:
        MeasuredTables(load_device("H200-SXM"))
    tables.data_root.cache_clear()
    tables.measured_devices.cache_clear()
    assert caught.value.hint == "pip install 'moesim[measured]'"


def test_devices_without_tables_are_told_the_nearest_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("A100-SXM-80GB", "H100-SXM", "B200-SXM", "L4")
    monkeypatch.setattr("moesim.measured.source.measured_devices", lambda: names)
    with pytest.raises(InputError, match="no measured tables of device 'MI300X'") as caught:
        MeasuredTables(load_device("MI300X"))
    assert caught.value.hint == "measured and closest to it: H100-SXM, B200-SXM, A100-SXM-80GB"
    # The same chip and memory behind other links.
    assert MeasuredTables(load_device("H800-SXM")).device == "H100-SXM"
    with pytest.raises(InputError, match="no measured tables of device 'H20'"):
        MeasuredTables(load_device("H20"))
    assert closest(load_device("L4"), names, 1) == ["L4"]


def test_asking_for_the_source_does_not_load_pandas() -> None:
    code = "import sys, moesim.measured.source; sys.exit(int('pandas' in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
