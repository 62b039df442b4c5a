"""Shape of the recorded model and of its training."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from moesim.errors import InputError, unknown_name


class Architecture(BaseModel):
    """Sizes of the mixture-of-experts language model that is trained and recorded."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vocabulary: int = Field(2048, ge=257, le=65536, description="token ids, 256 of them bytes")
    width: int = Field(128, ge=8, le=4096, description="hidden size")
    layers: int = Field(6, ge=1, le=64, description="blocks; each has a MoE layer")
    heads: int = Field(4, ge=1, le=64, description="attention heads")
    experts: int = Field(32, ge=1, le=512, description="routed experts per layer")
    top_k: int = Field(4, ge=1, le=64, description="experts per token")
    intermediate: int = Field(96, ge=1, le=16384, description="width inside an expert (SwiGLU)")
    context: int = Field(256, ge=8, le=8192, description="tokens of a sequence")

    @model_validator(mode="after")
    def _fits(self) -> Architecture:
        if self.top_k > self.experts:
            message = f"top_k must be at most experts ({self.experts}), got {self.top_k}"
            raise ValueError(message)
        if self.width % self.heads:
            message = f"heads must divide width ({self.width}), got {self.heads}"
            raise ValueError(message)
        return self


class Training(BaseModel):
    """How the model is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(500, ge=1, le=1_000_000, description="optimiser steps")
    sequences: int = Field(16, ge=1, le=4096, description="sequences per step")
    learning_rate: float = Field(2e-3, gt=0, le=1, description="peak rate; 5 % warm-up, cosine to a tenth")
    balance: float = Field(0.001, ge=0, le=10, description="weight of the balance loss, a mean over layers")
    seed: int = Field(0, ge=0, lt=2**32, description="of the initial weights and of the batches")
    threads: int = Field(1, ge=1, le=256, description="CPU threads; other counts may change last bits")


class Sample(BaseModel):
    """How much is recorded."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: int = Field(40960, ge=1, le=10**9, description="tokens, rounded up to whole sequences")


S = TypeVar("S", Architecture, Training, Sample)


def settings(model: type[S], **given: object) -> S:
    """Build an ``Architecture``, a ``Training`` or a ``Sample``.

    Raises:
        InputError: the first value that is out of range, with its range.
    """
    try:
        return model.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise unknown_name("setting of the recorder", key, model.model_fields) from error
        text = first["msg"].removeprefix("Value error, ").replace("Input should be", "must be", 1)
        message = f"{key} {text}, got {first['input']!r}" if key else text
        raise InputError(message) from error
