"""One paper: its scenarios, its published figures, and what is and is not modelled."""

from __future__ import annotations

from importlib.resources import files
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from moesim import yamlio
from moesim.errors import unknown_name


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


Quantity = Literal[
    "speedup",
    "latency_ms",
    "peak_memory_gib",
    "rank_excess",
    "dispatch_us",
    "combine_us",
    "experts_us",
    "computing_ms",
    "communicating_ms",
    "tokens_per_s_per_device",
    "copies_per_token",
    "hop_reduction",
    "experts_tail_reduction",
    "exchange_tail_reduction",
    # Runs that offload, see moesim.papers.offloading.
    "ttft_s",
    "tpot_ms",
    "decode_tokens_per_s",
    "output_tokens_per_s",
    "hit_rate",
    "good_pred",
    "prefill_wait_share",
    "decode_wait_share",
    "miss_high_share",
    "miss_low_share",
    "miss_skip_share",
    "decode_speedup",
    "prefill_speedup",
    "prefill_reduction",
    "output_speedup",
    "hit_rate_gain",
    "memory_saving",
    # One expert, or caches, without a run.
    "expert_load_ms",
    "layer_load_ms",
    "layer_compute_ms",
    "cpu_expert_ms",
    "gate_high_share",
    "gate_low_share",
    "gate_skip_share",
    "locality_hit_rate",
    "locality_knee",
    # MoE-Lightning's roofline, see moesim.papers.roofline.
    "roofline_layer_ms",
    "roofline_decode_rate",
    "roofline_rate",
    "roofline_batch",
    "roofline_speedup",
]


class Figure(_Strict):
    """Published points of one figure or table, and how to predict them.

    ``points`` holds, per row, one value for each of ``axes`` (dotted scenario keys; ``policy`` picks the
    policy) and last the published number. A speed-up is that over another policy (``baseline``), or over the
    same run with other settings (``baseline_settings``); so is a reduction, as a share. ``given`` are
    arguments of a quantity that are no scenario keys; an axis ``given.NAME`` sets one. ``computing_ms`` is
    what devices compute in a step, ``communicating_ms`` how long its exchanges take, hidden or not. ``mark``
    says how the number was seen: ``abstract`` where only the abstract was, ``secondary`` where someone else
    reports it.
    """

    figure: str
    unit: str
    mark: Literal["primary", "digitised", "derived", "abstract", "secondary"]
    quantity: Quantity
    scenario: str = ""
    policy: str = ""
    baseline: str = "ep"
    given: dict[str, Any] = Field(default_factory=dict)
    axes: tuple[str, ...]
    settings: dict[str, Any] = Field(default_factory=dict)
    baseline_settings: dict[str, Any] = Field(default_factory=dict)
    points: tuple[tuple[float | int | str | tuple[int, ...], ...], ...]
    note: str = ""


class Paper(_Strict):
    """One paper."""

    paper: str
    title: str
    source: str
    modelled: str
    not_modelled: str
    constants: str
    scenarios: dict[str, dict[str, Any]]
    figures: tuple[Figure, ...]


def paper_names() -> list[str]:
    """Return the names of the papers at hand."""
    entries = files("moesim.papers").joinpath("data").iterdir()
    return sorted(entry.name.removesuffix(".yaml") for entry in entries if entry.name.endswith(".yaml"))


def load_paper(name: str) -> Paper:
    """Load a paper by name.

    Raises:
        InputError: there is no such paper.
    """
    if name not in paper_names():
        raise unknown_name("paper", name, paper_names())
    text = files("moesim.papers").joinpath("data", f"{name}.yaml").read_text(encoding="utf-8")
    return Paper.model_validate(yamlio.loads(text, file=f"{name}.yaml").data)
