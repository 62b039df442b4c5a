from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from moesim.accuracy import families, run
from moesim.accuracy.families import FAMILY_NAMES
from moesim.accuracy.protocols import leave_device_out, leave_model_out, read_off_neighbours
from moesim.accuracy.score import points, summarise, worst_cases
from moesim.cli import main
from moesim.errors import InputError
from moesim.measured import tables
from moesim.measured.rows import measured, thin, thin_curves


def table(device: str = "H200-SXM", rate: float = 1e9) -> pd.DataFrame:
    rows = [
        {"shape": shape, "amount": amount, "width": width, "seconds": 1e-5 + amount * width / rate}
        for width, shape in enumerate("abcd", start=1)
        for amount in (1, 10, 100, 1000, 10_000, 100_000)
    ]
    return measured(pd.DataFrame(rows), device=device, family="toy", source="t", dtype="bf16", backend="x")


@dataclass
class Toy:
    name: str = "gemm"
    curve: tuple[str, ...] = ("shape",)
    axis: str = "amount"
    case: tuple[str, ...] = ("amount",)
    fit_rows: int = 1000
    seen: int = 0

    def measured(self, device: str) -> pd.DataFrame:
        return table(device) if device in ("H100-SXM", "H200-SXM") else pd.DataFrame()

    def predict(self, train: pd.DataFrame, test: pd.DataFrame) -> np.ndarray:
        overlap = train.merge(test, on=["device", "shape", "amount"])
        assert overlap.empty, "scored on fitted rows"
        self.seen += 1
        return 1e-5 + test["amount"].to_numpy() * test["width"].to_numpy() / 1e9


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Toy:
    family = Toy()
    monkeypatch.setattr(run, "family_named", lambda name: family)
    monkeypatch.setattr(run, "families", lambda: {"gemm": family})
    monkeypatch.setattr(run, "step_points", lambda device: [])
    monkeypatch.setattr(run, "measured_devices", lambda: ("H100-SXM", "H200-SXM", "L40S"))
    monkeypatch.setattr(tables, "measured_devices", lambda: ("H100-SXM", "H200-SXM", "L40S"))
    return family


def test_a_perfect_model_scores_zero_under_every_protocol(toy: Toy) -> None:
    report = run.accuracy()
    assert set(report.rows["protocol"]) == {"leave_model_out", "leave_device_out", "leave_points_out"}
    assert set(report.rows["device"]) == {"H100-SXM", "H200-SXM"}
    assert report.rows["max_ape"].max() < 1e-9
    assert toy.seen == 2 * (4 + 1)
    assert len(report.worst) == len(report.rows) * 3


def test_several_processes_score_what_one_does(toy: Toy) -> None:
    pd.testing.assert_frame_equal(run.accuracy(workers=2).points, run.accuracy().points)


def test_json_has_the_promised_keys(toy: Toy) -> None:
    result = CliRunner().invoke(main, ["accuracy", "--device", "h200", "--json"])
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["rows"]
    keys = "device family dtype backend source protocol count median_ape mean_ape p90_ape max_ape"
    assert [set(row) for row in rows] == [set(keys.split())] * 3


def test_tables_worst_cases_and_a_plot_are_written(
    toy: Toy, tmp_path_factory: pytest.TempPathFactory
) -> None:
    out = tmp_path_factory.mktemp("out") / "deep" / "er"
    result = CliRunner().invoke(main, ["accuracy", "--device", "H200-SXM", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "Furthest off" in result.output
    assert {path.name for path in out.iterdir()} == {"accuracy.csv", "accuracy_worst.csv", "accuracy.png"}
    assert (out / "accuracy.png").read_bytes().startswith(b"\x89PNG")


def test_without_the_package_the_command_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "PACKAGE", "package_that_is_not_there")
    tables.data_root.cache_clear()
    tables.measured_devices.cache_clear()
    result = CliRunner().invoke(main, ["accuracy", "--json"])
    tables.data_root.cache_clear()
    tables.measured_devices.cache_clear()
    assert result.exit_code == 2
    assert "pip install 'moesim[measured]'" in result.stderr
    assert result.stdout == ""


def test_unknown_devices_and_families_are_told(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments, text in (
        (["--device", "H20O"], "no device named 'H20O'"),
        (["--device", "MI300X"], "no measured tables of device 'MI300X'"),
    ):
        result = CliRunner().invoke(main, ["accuracy", *arguments])
        assert result.exit_code == 2
        assert text in result.stderr
    with pytest.raises(InputError, match="family of measurements named 'mo'"):
        families.family_named("mo")


def test_families_are_the_agreed_ones() -> None:
    assert set(families.families()) <= set(FAMILY_NAMES)
    assert "moe" in families.families()


def test_models_and_devices_left_out_are_not_trained_on() -> None:
    frame = table()
    held = [(set(train["shape"]), set(test["shape"])) for train, test in leave_model_out(frame)]
    assert [test for _, test in held] == [{"a"}, {"b"}, {"c"}, {"d"}]
    assert all(not train & test for train, test in held)
    split = leave_device_out([table("H100-SXM"), frame], "H200-SXM")
    assert split is not None
    assert set(split[0]["device"]) == {"H100-SXM"}
    assert leave_device_out([frame], "H200-SXM") is None
    assert list(leave_model_out(frame[frame["shape"] == "a"])) == []


def test_neighbours_read_sums_of_powers_exactly_and_never_the_ends() -> None:
    frame = table()
    frame.loc[frame["shape"] == "a", "seconds"] = 1e-6 * (frame["amount"] + 1e-3 * frame["amount"] ** 2)
    read = read_off_neighbours(frame.sample(frac=1.0, random_state=3), ("shape",), "amount")
    shuffled = frame.sample(frac=1.0, random_state=3)
    ends = shuffled["amount"].isin([1, 100_000]).to_numpy()
    assert np.isnan(read[ends]).all()
    assert read[~ends] == pytest.approx(shuffled["seconds"].to_numpy()[~ends])


def test_thinning_keeps_the_same_rows_in_any_order() -> None:
    frame = table()
    kept = thin(frame, 7)
    shuffled = thin(frame.sample(frac=1.0, random_state=1), 7)
    assert len(kept) == 7
    assert sorted(kept["seconds"]) == sorted(shuffled["seconds"])
    curves = thin_curves(frame, 10, ("shape",))
    assert set(curves.groupby("shape").size()) == {6}
    assert len(thin(frame, 100)) == len(frame)


def test_summary_is_that_of_the_points() -> None:
    frame = table().iloc[:4]
    seconds = frame["seconds"].to_numpy() * np.array([1.1, 0.8, 1.0, np.nan])
    scored = points(frame, seconds, source="analytic", protocol="leave_model_out", case=["amount"])
    (row,) = summarise(scored).to_dict("records")
    assert row["count"] == 3
    assert [row[name] for name in ("median_ape", "mean_ape", "max_ape")] == pytest.approx([0.1, 0.1, 0.2])
    assert worst_cases(scored, 1)["case"].tolist() == ["amount=10"]


@pytest.mark.parametrize("bad", [-1.0, np.inf])
def test_impossible_predictions_are_refused(bad: float) -> None:
    frame = table().iloc[:1]
    with pytest.raises(ValueError, match="negative or infinite"):
        points(frame, np.array([bad]), source="analytic", protocol="leave_model_out", case=[])


def test_failed_measurements_are_dropped_and_missing_columns_told() -> None:
    frame = table().drop(columns=["device", "family"])
    frame.loc[0, "seconds"] = 0.0
    frame.loc[1, "seconds"] = np.nan
    assert len(measured(frame, device="d", family="f")) == len(frame) - 2
    with pytest.raises(ValueError, match="lack shape"):
        measured(frame.drop(columns="shape"), device="d", family="f")
