"""Settings of all tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import settings

from moesim.hardware.calibration import grouped_entries
from moesim.hardware.dense_constants import attention_entries, gemm_entries
from moesim.hardware.elementwise import stream_entries

# The suite tries the same examples every time, so that a change passes or fails for what it does.
# HYPOTHESIS_PROFILE=explore looks for new ones.
settings.register_profile("suite", derandomize=True, deadline=None, database=None)
settings.register_profile("explore", deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))


@pytest.fixture
def twice_as_fast() -> Callable[[str], dict[str, Any]]:
    """Return the calibration of a device that does everything in half the time of an unmeasured one.

    Constants are shares of rates, and times; only the times change.
    """

    def halved(formats: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: {key: value / 2 if key.endswith("_s") else value for key, value in entry.items()}
            for name, entry in formats.items()
        }

    def calibration(device: str) -> dict[str, Any]:
        return {
            "gemm": {device: halved(gemm_entries()["generic"])},
            "grouped_gemm": {device: halved(grouped_entries()["generic"])},
            "stream": halved({device: stream_entries()["generic"]}),
            "attention": {
                kind: {device: halved(table["generic"])} for kind, table in attention_entries().items()
            },
        }

    return calibration
