"""The models that moesim knows by name, kept as data in ``data/models.yaml``."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from moesim.errors import unknown_name
from moesim.model.build import model_from_mapping
from moesim.model.spec import ModelSpec


@cache
def entries() -> Mapping[str, Mapping[str, Any]]:
    """Return every catalogue entry by name, in the order of the file."""
    text = files("moesim.model").joinpath("data/models.yaml").read_text(encoding="utf-8")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    found: dict[str, Mapping[str, Any]] = yaml.load(text, Loader=loader)
    return found


@cache
def _spelling() -> Mapping[str, str]:
    return {name.lower(): name for name in entries()}


def model_names() -> list[str]:
    """Return the names of all catalogue models."""
    return list(entries())


def load_model(name: str) -> ModelSpec:
    """Return a catalogue model.

    Args:
        name: its name; upper and lower case do not matter.

    Raises:
        InputError: no such model; names the nearest one.
    """
    key = _spelling().get(name.lower())
    if key is None:
        raise unknown_name("model", name, entries())
    return _built(key)


@cache
def _built(name: str) -> ModelSpec:
    return model_from_mapping({"name": name, **entries()[name]})
