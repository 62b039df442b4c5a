"""Predictions of given accuracy: what routers will answer, spoilt as often as a predictor is wrong.

Accuracy is the share of a token's experts that the predictor names: each of them is kept with that
probability, independently, and else replaced by an expert of the layer that the token does not need, all
of these alike and none twice. So a predictor names as many experts as a token has; only where a layer has
fewer others than are to be replaced does it name fewer. Of a batch, each token is predicted by itself: in a
prompt the union is nearly exact, since an expert that one token's prediction misses is named by another's.

Draws depend on the seed, the iteration, the layer that predicts and the layer that is predicted, not on
what was asked before.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from pydantic import Field

from moesim.errors import InputError
from moesim.policies.base import Parameters
from moesim.policies.prefetch.base import Floats, Ints, Outlook, PrefetchFrame
from moesim.policies.prefetch.common import by_load

Bools = npt.NDArray[np.bool_]

NOBODY: Final = -1


def spoilt(truth: Ints, experts: int, wrong: Bools, key: tuple[int, ...]) -> Ints:
    """Return a prediction of expert ids, [tokens, k] in the order of the truth, ``NOBODY`` for none.

    Args:
        truth: expert ids that will be needed, [tokens, k].
        experts: experts of the layer.
        wrong: which of them the predictor misses, [tokens, k].
        key: what draws of replacements depend on, whole numbers from 0.
    """
    predicted = np.array(truth, dtype=np.int64)
    tokens = np.flatnonzero(wrong.any(axis=1))
    if tokens.size == 0:
        return predicted
    missed = wrong[tokens]
    k = predicted.shape[1]
    worth = np.random.default_rng(key).random((tokens.size, experts))
    np.put_along_axis(worth, predicted[tokens], 2.0, axis=1)
    others = np.argsort(worth, axis=1)[:, : min(k, experts - k)]
    padded = np.full((tokens.size, k), NOBODY, dtype=np.int64)
    padded[:, : others.shape[1]] = others
    # The first wrong place of a token takes its first other expert, the second the second, and so on.
    turn = np.cumsum(missed, axis=1) - 1
    replaced = np.take_along_axis(padded, np.maximum(turn, 0), axis=1)
    predicted[tokens] = np.where(missed, replaced, predicted[tokens])
    return predicted


def spoilt_token(truth: list[int], experts: int, accuracy: float, luck: list[float]) -> list[int]:
    """Return a prediction of one token's experts in the order of the truth, without those named by nobody.

    Args:
        truth: experts that will be needed, [k].
        experts: experts of the layer.
        accuracy: probability with which each is kept.
        luck: a number from 0 to 1 for each: from the accuracy on it is missed, and how far beyond says which
            other expert is named.
    """
    named: list[int] = []
    others: list[int] | None = None
    for expert, drawn in zip(truth, luck, strict=True):
        if drawn < accuracy:
            named.append(expert)
            continue
        if others is None:
            others = [other for other in range(experts) if other not in truth]
        if others:
            named.append(others.pop(int((drawn - accuracy) / (1 - accuracy) * len(others))))
    return named


class GivenParameters(Parameters):
    """What predictors of given accuracy have in common."""

    by_layer: tuple[float, ...] = Field(
        (),
        description="accuracy for each layer that is predicted, from the first on; empty: the same for all",
    )


class GivenState:
    """A state whose predictions come from the truth; it keeps those of the iteration, made once each.

    Args:
        frame: what a run tells.
        by_layer: accuracy for each layer, which counts instead of a policy's own; may be empty.

    Raises:
        InputError: there is not one accuracy per layer, or one is no share.
    """

    def __init__(self, frame: PrefetchFrame, by_layer: tuple[float, ...] = ()) -> None:
        if by_layer and (len(by_layer) != frame.layers or not all(0 <= a <= 1 for a in by_layer)):
            message = f"by_layer has {len(by_layer)} accuracies, expected {frame.layers}, each from 0 to 1"
            raise InputError(message, hint="give one per MoE layer, or accuracy alone")
        self.frame = frame
        self._by_layer = by_layer
        self._iteration = -1
        self._made: dict[tuple[int, int], dict[int, int]] = {}
        self._drawn: dict[int, tuple[list[list[float]], Floats]] = {}

    def reset(self) -> None:
        """Begin a new request: keep no prediction."""
        self._made, self._drawn = {}, {}

    def see(self, layer: int, ids: Ints) -> None:
        """Learn nothing."""

    def predict(
        self,
        outlook: Outlook,
        target: int,
        accuracy: float,
        made_at: int | None = None,
        top: int | None = None,
    ) -> dict[int, int]:
        """Return how many tokens a later layer's experts are predicted to get, the most urgent first.

        Args:
            outlook: what is known.
            target: the layer that is predicted, of this iteration.
            accuracy: of the prediction, where accuracies are not given by layer.
            made_at: layer after whose router the prediction was made, by default the present one.
            top: experts of each token that count, those of highest rank; None: all.
        """
        assert outlook.truth is not None
        if outlook.iteration != self._iteration:
            self._iteration, self._made, self._drawn = outlook.iteration, {}, {}
        layer = outlook.layer if made_at is None else made_at
        accuracy = self._by_layer[target] if self._by_layer else accuracy
        if (layer, target) not in self._made:
            truth = outlook.truth(target)
            luck = self._luck(outlook.iteration, layer, target, truth)
            if len(truth) == 1:
                named = spoilt_token(truth[0].tolist(), self.frame.experts, accuracy, luck[0][target])
                self._made[layer, target] = dict.fromkeys(named[:top], 1)
                return self._made[layer, target]
            wrong = luck[1][target] >= accuracy
            if wrong.any():
                key = (self.frame.seed, outlook.iteration, layer + 1, target)
                truth = spoilt(truth, self.frame.experts, wrong, key)
            self._made[layer, target] = by_load(truth[:, :top])
        return self._made[layer, target]

    def _luck(self, iteration: int, layer: int, target: int, truth: Ints) -> tuple[list[list[float]], Floats]:
        """Return the draws that decide what is missed, of the first token by layer, and of all by layer.

        Those of all layers that are predicted before the first, or over the same distance, are drawn at once.
        """
        distance = 0 if layer < 0 else target - layer
        if distance not in self._drawn:
            random = np.random.default_rng((self.frame.seed, iteration, distance))
            drawn = random.random((self.frame.layers, *truth.shape))
            self._drawn[distance] = (drawn[:, 0].tolist(), drawn)
        return self._drawn[distance]
