"""Predictions beside published figures: how close they must stay, and in which order."""

from __future__ import annotations

import json
import statistics

import pytest
from click.testing import CliRunner

from moesim.cli import main

KEYS = ["paper", "figure", "point", "unit", "published", "predicted", "relative_error", "mark", "note"]
AIMED_AT = ("Fig. 4 speed-up, gpt-oss-120b", "Fig. 4 speed-up, DeepSeek-V3")


def moesim(*words):
    result = CliRunner().invoke(main, list(words))
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def llep():
    return json.loads(moesim("reproduce", "llep", "--json"))["rows"]


def figures(rows, start):
    found = [row for row in rows if row["figure"].startswith(start)]
    assert found, f"no rows of {start}"
    return found


def place(row):
    """Read the axes of a point: fraction, hot, threshold, ..."""
    return {key: float(value) for key, value in (part.split("=") for part in row["point"].split(", "))}


def errors(rows):
    return [abs(row["relative_error"]) for row in rows]


def test_rows_have_the_promised_keys(llep):
    for row in llep:
        assert list(row) == KEYS
        assert row["paper"] == "llep"
        assert row["mark"] in ("primary", "digitised", "derived")
        assert row["relative_error"] == pytest.approx(row["predicted"] / row["published"] - 1)


def test_speed_ups_are_close(llep):
    rows = [row for start in AIMED_AT for row in figures(llep, start)]
    assert len(rows) == 26
    assert statistics.median(errors(rows)) <= 0.10
    assert max(errors(rows)) <= 0.25


def test_the_other_speed_up_grids_stay_where_they_are(llep):
    # Kimi-K2's 30 % into one expert (1.48x) lies below its neighbours in the paper and misses by 27 %.
    for start, middle, worst in (("Fig. 4 speed-up, Kimi-K2", 0.12, 0.30), ("Fig. 1a", 0.05, 0.10)):
        rows = figures(llep, start)
        assert statistics.median(errors(rows)) <= middle
        assert max(errors(rows)) <= worst


def test_memory_is_close(llep):
    rows = figures(llep, "Fig. 4 peak memory")
    assert {row["unit"] for row in rows} == {"GiB"}
    assert max(errors(rows)) <= 0.03


@pytest.mark.parametrize("start", [*AIMED_AT, "Fig. 4 speed-up, Kimi-K2"])
def test_speed_ups_grow_with_the_concentration(llep, start):
    grid = {(place(row)["hot"], place(row)["fraction"]): row["predicted"] for row in figures(llep, start)}
    for hot in sorted({hot for hot, _ in grid}):
        ordered = [grid[key] for key in sorted(grid) if key[0] == hot]
        assert ordered == sorted(ordered)
        assert ordered[-1] > ordered[0] or len(ordered) == 1


@pytest.mark.parametrize(
    ("fraction", "last_planned", "first_not"),
    [(0.15, 1.7, 2.0), (0.2, 2.0, 2.3), (0.3, 2.6, None), (0.5, 2.6, None)],
)
def test_lambda_flips_at_the_right_threshold(llep, fraction, last_planned, first_not):
    curve = {
        place(row)["threshold"]: row["predicted"]
        for row in figures(llep, "Fig. 7a")
        if place(row)["fraction"] == fraction
    }
    for threshold, speedup in curve.items():
        planned = speedup != pytest.approx(1.0, abs=1e-9)
        assert planned == (threshold <= last_planned), threshold
    assert last_planned in curve
    assert first_not is None or first_not in curve


def test_curves_over_batch_size_and_lambda_are_close(llep):
    for start in ("Fig. 6a", "Fig. 7a"):
        assert statistics.median(errors(figures(llep, start))) <= 0.10
        assert max(errors(figures(llep, start))) <= 0.25


def test_eplb_removes_most_of_the_imbalance():
    rows = json.loads(moesim("reproduce", "eplb", "--json"))["rows"]
    predicted = {(row["figure"], row["point"]): row["predicted"] for row in rows}
    ep = predicted["Rank imbalance, 32 ranks", "policy=ep"]
    eplb = predicted["Rank imbalance, 32 ranks", "policy=eplb"]
    assert ep > 1.0
    assert eplb < ep / 8


def test_tables_and_csv_show_every_point():
    text, csv = moesim("reproduce", "deepep"), moesim("reproduce", "deepep", "--csv")
    rows = json.loads(moesim("reproduce", "deepep", "--json"))["rows"]
    assert csv.splitlines()[0] == ",".join(KEYS)
    assert len(csv.splitlines()) == len(rows) + 1
    for row in rows:
        assert f"{row['relative_error']:+.1%}" in text
    for title in ("Source: ", "Modelled: ", "Not modelled: ", "Constants: "):
        assert title in text


def test_the_pair_of_deepseeks_training_profile_is_close_and_its_exchanges_too_fast():
    rows = json.loads(moesim("reproduce", "deepseek-training", "--json"))["rows"]
    error = {row["figure"]: row["relative_error"] for row in rows}
    assert abs(error["Pair of chunks"]) <= 0.10
    assert abs(error["Computation of the pair"]) <= 0.06
    # The slow-down of exchanges beside computation comes from this profile, and is left out.
    assert -0.35 <= error["Dispatch and combine of the pair"] <= -0.25
    assert error["Communication of the pair"] < error["Dispatch and combine of the pair"]
    # Two dispatches and two combines of each of four layers are all there is.
    predicted = {row["figure"]: row["predicted"] for row in rows}
    each = predicted["Dispatch beside computation"] + predicted["Combine beside computation"]
    assert predicted["Dispatch and combine of the pair"] == pytest.approx(8 * each / 1e3)
