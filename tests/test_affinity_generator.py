"""Generated tokens whose choices know of each other: laws of the draw, and recorded figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from moesim.errors import InputError
from moesim.routing.affinity import Affinity
from moesim.routing.generators import create_generator
from moesim.routing.generators.affinity import AffinityGenerator
from moesim.routing.generators.sampling import inclusion

TRACES = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "traces" / "esft_deepseek_v2_lite"


def make(
    *, experts: int = 16, top_k: int = 4, layers: int = 3, seed: int = 3, **more: float
) -> AffinityGenerator:
    made = create_generator("affinity", experts=experts, top_k=top_k, layers=layers, seed=seed, **more)
    assert isinstance(made, AffinityGenerator)
    return made


@pytest.mark.parametrize("onward", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("together", [0.0, 0.5, 1.0])
def test_strengths_leave_the_chances_alone(onward: float, together: float) -> None:
    made = make(exponent=1.0, onward=onward, together=together)
    ids = made.tokens(0, 40_000)
    assert (np.diff(np.sort(ids, axis=2), axis=2) > 0).all(), "choices of a token differ"
    wanted = np.sort(inclusion(np.arange(1, 17) ** -1.0, 4))
    for layer in range(3):
        seen = np.bincount(ids[:, layer].ravel(), minlength=16) / len(ids)
        np.testing.assert_allclose(seen, made.chances[layer], atol=0.015)
        np.testing.assert_allclose(np.sort(made.chances[layer]), wanted, atol=1e-9)


def test_loads_count_the_tokens_over_blocks_and_devices() -> None:
    made = make()
    tokens = np.array([20_000, 0, 13_000], dtype=np.int64)
    counts, ids = made.load(4, tokens).counts, made.tokens(4, 33_000)
    for device, part in enumerate((ids[:20_000], ids[:0], ids[20_000:])):
        for layer in range(3):
            seen = np.bincount(part[:, layer].ravel(), minlength=16)
            np.testing.assert_array_equal(counts[layer, device], seen)


def test_affinity_is_counted_from_the_profiling_window() -> None:
    made = make(profile_tokens=20_000)
    found = made.affinity()
    assert found.recorded
    np.testing.assert_array_equal(found.together.sum(axis=2), made.profile() * 3)
    np.testing.assert_array_equal(found.onward.sum(axis=2), made.profile()[:-1] * 4)


def test_full_onward_strength_fixes_the_next_expert() -> None:
    ids = make(top_k=1, onward=1.0).tokens(0, 4000)
    onward = Affinity.of_tokens(ids, 16).onward
    assert ((onward > 0).sum(axis=2) == 1).all()


def test_no_onward_strength_leaves_layers_independent() -> None:
    ids = make(top_k=1, exponent=0.5, onward=0.0).tokens(0, 60_000)
    found = Affinity.of_tokens(ids, 16)
    counts = np.stack([np.bincount(ids[:, layer, 0], minlength=16) for layer in range(3)])
    np.testing.assert_allclose(found.onward, Affinity.independent(counts, 1).onward, rtol=0.5, atol=60)


def test_full_strength_together_makes_groups_of_even_popularity() -> None:
    ids = make(exponent=0.0, together=1.0).tokens(0, 4000)
    partners = (Affinity.of_tokens(ids, 16).together > 0).sum(axis=2)
    assert (partners == 3).all()


def test_no_strength_together_leaves_choices_near_independent() -> None:
    ids = make(exponent=0.0, together=0.0).tokens(0, 60_000)
    pairs = Affinity.of_tokens(ids, 16).together[:, ~np.eye(16, dtype=bool)] / len(ids)
    np.testing.assert_allclose(pairs, 4 * 3 / (16 * 15), atol=0.015)


def test_tokens_are_refused_below_zero() -> None:
    with pytest.raises(InputError, match="fewer than 0"):
        make().tokens(0, -1)
    assert make().tokens(0, 0).shape == (0, 3, 4)


def best(ids: np.ndarray) -> tuple[float, float]:
    """Return the mean chances of the best next expert and the best partner."""
    found = Affinity.of_tokens(ids.astype(np.int64), 64)
    copies = ids.size // ids.shape[1]
    onward = found.onward.max(axis=2).sum(axis=1) / copies
    return float(onward.mean()), float((found.together.max(axis=2).sum(axis=1) / copies).mean())


@pytest.mark.skipif(not TRACES.exists(), reason="recorded traces are not at hand")
def test_defaults_lie_within_the_recorded_tasks() -> None:
    recorded = [best(np.load(TRACES / f"{task}.npz")["ids"]) for task in ("intent", "summary", "translation")]
    made = best(make(experts=64, top_k=6, layers=26).tokens(0, 8000))
    for value, known in zip(made, zip(*recorded, strict=True), strict=True):
        assert min(known) - 0.02 <= value <= max(known) + 0.02
