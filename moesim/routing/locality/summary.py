"""Locality as plain data, for JSON."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.routing.locality.consistency import Consistency, Scores
from moesim.routing.locality.knee import RATIOS, Knee
from moesim.routing.locality.profile import LocalityProfile
from moesim.routing.locality.published import PublishedModel, published
from moesim.routing.locality.reuse import Distribution

QUANTILES = (0.5, 0.9, 0.99)


def profile_summary(profile: LocalityProfile) -> dict[str, Any]:
    """Return a profile as plain data; shares are from 0 to 1, what is not defined is None.

    Keys ``layers`` to ``skipped_windows`` say what was measured. ``consistency`` has a row per window,
    ``hit_rates`` one per policy: rates at ``ratios``, and ``by_size`` at 1, 2, ... experts per cache.
    """
    again, used = profile.reuse, profile.popularity
    accesses = profile.tokens * profile.top_k
    return {
        "layers": list(profile.layers),
        "experts": profile.experts,
        "top_k": profile.top_k,
        "tokens": profile.tokens,
        "sequences": profile.sequences,
        "longest_sequence": profile.longest,
        "scope": profile.scope,
        "skipped_windows": list(profile.skipped),
        "consistency": [_consistency(found, profile.layers) for found in profile.consistency.values()],
        "ratios": list(RATIOS),
        "hit_rates": [
            {
                "policy": policy,
                "rates": profile.rates(policy).tolist(),
                "knee": _knee(profile.knee(policy)),
                "by_size": profile.curve(policy).tolist(),
            }
            for policy in profile.curves
        ],
        "reuse": {
            "adjacent": _number(again.adjacent.mean()),
            "adjacent_random": again.adjacent_random,
            "adjacent_independent": _number(again.adjacent_independent.mean()),
            "first_uses": float(again.first.mean() / accesses),
            "tokens_between": _distribution(again.tokens),
            "distinct_between": _distribution(again.distinct),
        },
        "popularity": {"cv": float(used.cv.mean()), "top_quarter": float(used.top_quarter.mean())},
        "per_layer": layer_rows(profile),
    }


def layer_rows(profile: LocalityProfile) -> list[dict[str, Any]]:
    """Return one row per layer: SRP and distinct experts by window, reuse and popularity."""
    again, used = profile.reuse, profile.popularity
    columns: dict[str, npt.NDArray[Any]] = {"layer": np.array(profile.layers)}
    for window, found in profile.consistency.items():
        columns[f"srp_{window}"] = found.layers.srp
        columns[f"distinct_{window}"] = found.distinct
    columns |= {
        "adjacent": again.adjacent,
        "independent": again.adjacent_independent,
        "tokens_between": again.tokens.layer_means(),
        "distinct_between": again.distinct.layer_means(),
        "cv": used.cv,
        "top_quarter": used.top_quarter,
    }
    return [
        {
            name: _number(values[row]) if name != "layer" else int(values[row])
            for name, values in columns.items()
        }
        for row in range(len(profile.layers))
    ]


def published_summary(model: PublishedModel) -> dict[str, Any]:
    """Return the published values of a model as plain data, with its source; None: not published."""
    whole = published()
    facts: dict[str, Any] = {"model": model.name, "source": whole.source, "seen": whole.seen}
    facts |= {"setting": whole.setting, "experts": model.experts, "top_k": model.top_k}
    facts["consistency"] = [
        {"window": window, "srp": model.srp_at(window), "rho_hat": model.rho_hat_at(window)}
        for window in whole.windows
    ]
    facts["ratios"] = list(whole.ratios)
    policies = ["lru", "lfu", "belady", *(f"sch{window}" for window in whole.windows)]
    facts["hit_rates"] = [
        {
            "policy": policy,
            "rates": [model.curve(policy).get(ratio) for ratio in whole.ratios],
            "knee": None if (knee := model.knee(policy)) is None else _knee(knee),
        }
        for policy in policies
    ]
    return facts


def _consistency(found: Consistency, layers: tuple[int, ...]) -> dict[str, Any]:
    return {
        "window": found.window,
        "positions": found.positions,
        **_scores(found.model),
        "distinct": float(found.distinct.mean()),
        "per_layer": [
            {"layer": layer, **_scores(found.layers, row), "distinct": float(found.distinct[row])}
            for row, layer in enumerate(layers)
        ],
        "per_expert_srp": found.experts.srp.tolist(),
        "per_expert_rho_hat": [[_number(value) for value in row] for row in found.experts.rho_hat],
    }


def _scores(scores: Scores, *place: int) -> dict[str, Any]:
    return {
        "srp": float(scores.srp[place]),
        "rho_hat": _number(scores.rho_hat[place]),
        "threshold": int(scores.threshold[place]),
        "activation": _number(scores.activation[place]),
    }


def _distribution(found: Distribution) -> dict[str, float | None]:
    quantiles = {f"p{round(100 * share)}": _number(found.quantile(share)) for share in QUANTILES}
    return {"mean": _number(found.mean()), **quantiles}


def _knee(knee: Knee) -> dict[str, float]:
    return {"ratio": knee.ratio, "height": knee.height}


def _number(value: Any) -> float | None:
    """Return a number that JSON knows."""
    return float(value) if math.isfinite(value) else None
