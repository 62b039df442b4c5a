"""What runs: layers, experts, and their bytes and FLOPs."""

from __future__ import annotations

from moesim.model.build import model_from_mapping
from moesim.model.catalogue import load_model, model_names
from moesim.model.huggingface import model_from_config
from moesim.model.spec import (
    CONVENTIONS,
    AttentionSpec,
    ExpertSpec,
    Gemm,
    LayerSpec,
    ModelSpec,
    Reported,
)

__all__ = [
    "CONVENTIONS",
    "AttentionSpec",
    "ExpertSpec",
    "Gemm",
    "LayerSpec",
    "ModelSpec",
    "Reported",
    "load_model",
    "model_from_config",
    "model_from_mapping",
    "model_names",
]
