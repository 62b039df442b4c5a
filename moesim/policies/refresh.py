"""How a placement is kept up to date while a run goes on."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from moesim.policies.base import Parameters


class Refresh(Parameters):
    """Place experts anew every so many steps, from the loads of the last steps, and move the weights."""

    every: int = Field(
        default=1000,
        json_schema_extra={"tune": [1, 1000, "log"]},
        ge=1,
        le=1_000_000,
        description="steps between refreshes (SGLang: 1000, vLLM: 3000)",
    )
    window: int | None = Field(
        default=None,
        json_schema_extra={"tune": [1, 1000, "log"]},
        ge=1,
        le=1_000_000,
        description="steps whose loads are looked at; by default those since the last refresh",
    )
    mode: Literal["blocking", "background"] = Field(
        default="blocking",
        description="blocking: a step waits for its migration; background: weights move beside the steps and"
        " are used from the first step after they have arrived",
    )
    layers_per_step: int | None = Field(
        default=None, ge=1, description="layers that migrate in one step; by default all"
    )
    moves_per_step: int | None = Field(
        default=None, ge=1, description="slots that a device fills anew in one step; by default all"
    )
    source: Literal["devices", "host"] = Field(
        default="devices",
        description="devices: weights come from the nearest device that holds them; host: from host memory",
    )
