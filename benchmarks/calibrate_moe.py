"""Fit the constants of the grouped GEMM to all measured tables and write them into the catalogue.

Run: python benchmarks/calibrate_moe.py   (needs the extra ``measured``; takes some minutes)
Everything that reports accuracy fits its own constants on rows other than those it scores; what this
writes is for predicting, and is fitted to everything there is.
"""

from __future__ import annotations

import datetime
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import pandas as pd

from moesim.accuracy.moe import FIT_ROWS, fit_layers
from moesim.hardware import calibration
from moesim.measured.moe_tables import moe_rows
from moesim.measured.rows import Measured, thin
from moesim.measured.tables import measured_devices

DATA = Path(calibration.__file__).parent / "data" / "calibration.yaml"


def fitted(rows: Measured) -> str:
    """Return the constants of one precision and kernel family as one line of YAML."""
    values = asdict(fit_layers(rows))
    # Always with a decimal point: YAML 1.1 takes 1e-12 for a text.
    return "{" + ", ".join(f"{name}: {value:.2e}" for name, value in values.items()) + "}"


def lines(frame: pd.DataFrame) -> list[str]:
    """Return one line per precision and kernel family."""
    groups = frame.groupby(["backend", "dtype"], sort=True, observed=True)
    return [f"    {backend}/{dtype}: {fitted(rows)}" for (backend, dtype), rows in groups]


def main() -> None:
    """Fit and write."""
    text = DATA.read_text(encoding="utf-8")
    kept = text[: text.index("source: ")]
    today = datetime.datetime.now(tz=datetime.UTC).date()
    out = [
        f"source: fitted on {today} to aiconfigurator-core {version('aiconfigurator-core')}",
        "grouped_gemm:",
    ]
    shares = []
    for device in measured_devices():
        frame = moe_rows(device)
        if len(frame):
            out += [f"  {device}:", *lines(frame)]
            groups = frame.groupby(["backend", "dtype"], observed=True)
            shares += [thin(rows, FIT_ROWS // 4) for _, rows in groups]
    out += [f"  {calibration.GENERIC}:", *lines(pd.concat(shares, ignore_index=True))]
    DATA.write_text(kept + "\n".join(out) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
