"""Fit the constants of dense GEMMs and attention to all published timings and write the catalogue's file.

    python benchmarks/fit_dense.py > moesim/hardware/data/dense.yaml

Needs ``pip install 'moesim[measured]'``. What ``moesim accuracy`` reports does not come from these
constants: there each model and device is predicted without its own rows.
"""

from __future__ import annotations

import sys
from dataclasses import asdict

import numpy as np
import pandas as pd
import yaml

from moesim.accuracy import attention, gemm
from moesim.hardware.catalogue import read_data
from moesim.measured.rows import Measured, thin
from moesim.measured.tables import measured_devices

HEADER = """\
# Constants of dense GEMMs (dense_gemm.py) and attention cores (attention_cost.py) per device and format.
# Written by benchmarks/fit_dense.py; not to be edited by hand. Fitted {date} to the timings published in
# aiconfigurator-core {version} (Apache-2.0); `fitted_to` names the table, `rows` its size here and
# `median_error` the error on these rows (in sample; `moesim accuracy` scores rows that a fit has not seen).
# `generic` is fitted to all listed devices together and serves devices without timings.
# `caches`: L2 in bytes as on datasheets and in whitepapers (from general knowledge; not re-read).
"""

SOFTWARE = {
    "gemm": {"fp8_block": "trtllm", "int8": "trtllm", "int4": "trtllm", "int8_wo": "trtllm", "bf16": "vllm"},
    "gqa": {},
    "mla": {"bf16": "trtllm", "bf16_kv8": "trtllm", "fp8": "trtllm"},
}
"""Software whose kernels stand for a format (default vllm, else the first that has it): the tuned ones, of
which graphs of kernels were timed; TensorRT-LLM's latent prefill runs on full heads."""


def entry(rows, constants, seconds) -> dict:
    error = float(np.median(np.abs(seconds / rows["seconds"].to_numpy() - 1.0)))
    numbers = {
        name: float(f"{value:.4g}") if isinstance(value, float) else value
        for name, value in asdict(constants).items()
    }
    source = sorted(set(rows["source"].astype(str)))
    return {**numbers, "fitted_to": ", ".join(source), "rows": len(rows), "median_error": round(error, 3)}


def pick(rows: Measured, kind: str, dtype: str) -> Measured:
    same = rows[rows["dtype"] == dtype]
    wanted = SOFTWARE[kind].get(dtype, "vllm")
    names = list(same["backend"].unique())
    return same[same["backend"] == (wanted if wanted in names else sorted(names)[0])]


def tables(family, kind: str) -> dict[str, dict[str, Measured]]:
    """Return format -> device -> rows."""
    found: dict[str, dict[str, Measured]] = {}
    for device in measured_devices():
        rows = family.measured(device)
        if len(rows) and kind != "gemm":
            rows = rows[rows["kind"] == kind]
        for dtype in sorted(set(rows["dtype"].astype(str))) if len(rows) else ():
            chosen = pick(rows, kind, dtype)
            if kind != "gemm":
                chosen = chosen[chosen["kernel"] == chosen["kernel"].value_counts().index[0]]
            found.setdefault(dtype, {})[device] = thin(chosen, 6000)
    return found


def fitted(family, kind: str, phase: str = "") -> dict[str, dict[str, dict]]:
    result: dict[str, dict[str, dict]] = {"generic": {}}
    for dtype, devices in tables(family, kind).items():
        together = pd.concat([thin(rows, 1000) for rows in devices.values()], ignore_index=True)
        for device, rows in [("generic", together), *devices.items()]:
            if kind == "gemm":
                constants = gemm.fit_constants(rows)
                seconds = gemm.price_rows(rows, constants)
            else:
                constants = attention.fit_constants(rows, phase)
                seconds = attention.price_rows(rows, constants, phase)
            result.setdefault(device, {})[dtype] = entry(rows, constants, seconds)
            print(kind, phase, dtype, device, result[device][dtype]["median_error"], file=sys.stderr)
    return result


def main(date: str, version: str) -> None:
    data = {
        "caches": read_data("dense")["caches"],
        "gemm": fitted(gemm.Gemm(), "gemm"),
        "attention": {
            f"{kind}_{phase}": fitted(attention.Attention(phase), kind, phase)
            for kind in ("gqa", "mla")
            for phase in ("prefill", "decode")
        },
    }
    sys.stdout.write(HEADER.format(date=date, version=version))
    yaml.safe_dump(data, sys.stdout, default_flow_style=None, sort_keys=False, width=118)


if __name__ == "__main__":
    from datetime import date
    from importlib.metadata import version

    main(date.today().isoformat(), version("aiconfigurator-core"))
