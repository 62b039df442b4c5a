"""Compare rules for reading measured tables between their points, on every other point left out.

Run ``python benchmarks/bench_reading.py [DEVICE ...]`` with the extra ``measured``. Prints the median and the
90th percentile of the absolute relative error in percent for straight lines of log t over log x, monotone
cubics of the same, and the rule of ``moesim.measured.between``; without and with a model as a guide. For the
first two a guide means that measured over predicted is read.
"""

from __future__ import annotations

import sys

import numpy as np
from scipy.interpolate import PchipInterpolator

from moesim.accuracy.families import families
from moesim.accuracy.protocols import leave_model_out, read_off_neighbours
from moesim.measured.rows import GROUP, thin_curves

COLLECTIVES = ("all_to_all", "all_gather", "reduce_scatter", "all_reduce")
FAMILIES = ("moe", "gemm", "attention_prefill", "attention_decode", *COLLECTIVES)
GUIDED = ("moe",)


def main() -> None:
    for device in sys.argv[1:] or ["H200-SXM", "B200-SXM"]:
        for name in FAMILIES:
            score(device, name)


def score(device: str, name: str) -> None:
    family = families()[name]
    errors: dict[str, list[np.ndarray]] = {}
    for _, whole in family.measured(device).groupby(list(GROUP), observed=True):
        group = thin_curves(whole, family.fit_rows, family.curve)
        seconds = group["seconds"].to_numpy()
        guides = {"": np.ones(len(group))}
        if name in GUIDED:
            guides[" guided"] = np.full(len(group), np.nan)
            for train, test in leave_model_out(group):
                guides[" guided"][group.index.get_indexer(test.index)] = family.predict(train, test)
        known = np.isfinite(next(reversed(guides.values())))  # the same rows with and without a guide
        for word, guide in guides.items():
            rules = {
                "lines": logs(group, family, guide, cubic=False),
                "cubics": logs(group, family, guide, cubic=True),
                "ours": read_off_neighbours(group, family.curve, family.axis, guide if word else None),
            }
            for rule, read in rules.items():
                error = np.abs(read / seconds - 1)[known & np.isfinite(read)]
                errors.setdefault(rule + word, []).append(error)
    for rule, parts in errors.items():
        every = 100 * np.concatenate(parts)
        middle, high = np.median(every), np.quantile(every, 0.9)
        print(f"{device:10} {name:18} {rule:14} {len(every):7} points  median {middle:.2f}  p90 {high:.1f}")


def logs(group, family, guide, *, cubic: bool) -> np.ndarray:
    """Read every inner point off those that stay when every other one goes, on logarithms."""
    result = np.full(len(group), np.nan)
    x = np.log(group[family.axis].to_numpy(dtype=float))
    y = np.log(group["seconds"].to_numpy() / guide)
    for places in group.groupby(list(family.curve), observed=True).indices.values():
        order = places[np.argsort(x[places], kind="stable")]
        for first in (0, 1):
            kept, out = order[first::2], order[first + 1 : -1 : 2] if first == 0 else order[2:-1:2]
            if len(kept) < 2 or not len(out) or (np.diff(x[kept]) <= 0).any() or np.isnan(y[order]).any():
                continue
            out = out[(x[out] > x[kept[0]]) & (x[out] < x[kept[-1]])]
            result[out] = (
                PchipInterpolator(x[kept], y[kept])(x[out]) if cubic else np.interp(x[out], x[kept], y[kept])
            )
    return np.exp(result) * guide


if __name__ == "__main__":
    main()
