"""Published locality of 20 models (arXiv 2505.16056), from the package's own data file."""

from __future__ import annotations

from difflib import SequenceMatcher
from functools import cache
from importlib.resources import files
from typing import Final

from pydantic import BaseModel, ConfigDict

from moesim import yamlio
from moesim.errors import InputError
from moesim.routing.locality.knee import Knee, find_knee

Rates = tuple[float | None, ...]

_FILE: Final = "published.yaml"


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PublishedModel(_Strict):
    """Published values of one model, or of its encoder or decoder; None where none were published.

    Attributes:
        name: as printed.
        parameters_b: parameters, 10^9.
        layers: layers of the model.
        experts: routed experts per MoE layer.
        top_k: experts per token.
        frequency_sd: printed standard deviation of how often experts are used, percent.
        srp: SRP at each of ``Published.windows``.
        rho_hat: kept experts over top-k at each window.
        sch_interval: 95 % interval of ``sch`` at ratio 2, per window.
        sch: hit rates of the segment cache, [windows][ratios].
        lru: hit rates at each of ``Published.ratios``; so ``lfu`` and ``belady``.
    """

    name: str
    parameters_b: float
    layers: int
    experts: int
    top_k: int
    frequency_sd: float
    srp: Rates
    rho_hat: Rates
    sch_interval: tuple[tuple[float, float] | None, ...]
    sch: tuple[Rates | None, ...]
    lru: Rates
    lfu: Rates
    belady: Rates

    def srp_at(self, window: int) -> float | None:
        """Return SRP at a window, None where it was not published."""
        return dict(zip(published().windows, self.srp, strict=True)).get(window)

    def rho_hat_at(self, window: int) -> float | None:
        """Return rho_hat at a window, None where it was not published."""
        return dict(zip(published().windows, self.rho_hat, strict=True)).get(window)

    def curve(self, policy: str) -> dict[float, float]:
        """Return hit rates by cache ratio, empty where none were published.

        A cache of all experts finds everything, which was not published.

        Args:
            policy: ``lru``, ``lfu``, ``belady`` or ``sch`` and its window, such as ``sch16``.
        """
        whole = published()
        rates: Rates | None = None
        if policy.startswith("sch"):
            rates = dict(zip(whole.windows, self.sch, strict=True)).get(int(policy[3:]))
        elif policy in ("lru", "lfu", "belady"):
            rates = {"lru": self.lru, "lfu": self.lfu, "belady": self.belady}[policy]
        if rates is None:
            return {}
        everything = [1.0 if ratio * self.top_k >= self.experts else None for ratio in whole.ratios]
        said = (
            (ratio, full if rate is None else rate)
            for ratio, rate, full in zip(whole.ratios, rates, everything, strict=True)
        )
        return {ratio: rate for ratio, rate in said if rate is not None}

    def knee(self, policy: str) -> Knee | None:
        """Return the knee of a curve, on the published ratios only; None where there is no curve."""
        curve = self.curve(policy)
        return find_knee(list(curve), list(curve.values())) if curve else None


class Published(_Strict):
    """All published values, where they are from, and what they were measured on."""

    source: str
    seen: str
    setting: str
    windows: tuple[int, ...]
    ratios: tuple[float, ...]
    models: tuple[PublishedModel, ...]


@cache
def published() -> Published:
    """Return all published values."""
    text = files("moesim.routing.locality").joinpath("data", _FILE).read_text(encoding="utf-8")
    return Published.model_validate(yamlio.loads(text, file=_FILE).data)


def published_model(name: str) -> PublishedModel:
    """Return the published values of a model, by its name or a part that no other name has, in any case.

    Raises:
        InputError: there is no such model, or several; names the nearest.
    """
    models = {model.name.lower(): model for model in published().models}
    wanted = name.strip().lower()
    if wanted in models:
        return models[wanted]
    part = [model for key, model in models.items() if wanted and wanted in key]
    if len(part) > 1:
        message = f"'{name}' is part of the names of several published models"
        raise InputError(message, hint=f"choose {' or '.join(model.name for model in part)}")
    if not part:
        close = max(models, key=lambda key: SequenceMatcher(None, wanted, key[: len(wanted) + 1]).ratio())
        message = f"there is no published model named '{name}'"
        raise InputError(message, hint=f"did you mean '{models[close].name}'?")
    return part[0]


def published_table() -> str:
    """Return the table of the documentation: SRP, rho_hat and hit rates in percent, most consistent first."""
    lines = [
        "| model | top-k of experts | SRP 4 / 16 / 64 / 256 | rho_hat 4 / 16 / 64 / 256 "
        "| SCH 16 at ratio 1 / 2 | LRU / LFU / Belady at 2 | knee (height) |",
        "|---|---|---|---|---|---|---|",
    ]
    for model in sorted(published().models, key=lambda model: -(model.srp_at(16) or 0)):
        srp = " / ".join("-" if value is None else f"{100 * value:.1f}" for value in model.srp)
        rho = " / ".join("-" if value is None else f"{value:.2f}" for value in model.rho_hat)
        segment, knee = model.curve("sch16"), model.knee("sch16")
        ahead = " / ".join(f"{100 * segment[ratio]:.1f}" for ratio in (1.0, 2.0))
        others = " / ".join(f"{100 * model.curve(policy)[2.0]:.1f}" for policy in ("lru", "lfu", "belady"))
        bend = "-" if knee is None else f"{knee.ratio:g} ({100 * knee.height:.0f})"
        size = f"{model.top_k} of {model.experts}"
        lines.append(f"| {model.name} | {size} | {srp} | {rho} | {ahead} | {others} | {bend} |")
    return "\n".join(lines)
