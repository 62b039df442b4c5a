"""Gates: from a router's scores to the experts of each token."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from moesim.errors import InputError

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]


def group_limited_gate(
    logits: npt.ArrayLike,
    *,
    top_k: int,
    groups: int = 1,
    limited_groups: int | None = None,
    bias: npt.ArrayLike | None = None,
    score: Literal["sigmoid", "softmax"] = "sigmoid",
    scale: float = 1.0,
) -> tuple[IntArray, FloatArray]:
    """Choose the experts of each token from a few groups, as DeepSeek-V3 does.

    A group counts as much as its two best experts together (its best one where there is no bias), and
    experts are taken from the best groups only. The bias has a say in what is chosen, not in the weights.
    Sigmoid weights are normalised to ``scale``; softmax weights are multiplied by it. Of equal scores the
    lower index wins. Arithmetic is in float32, like the reference's (deepseek-ai/DeepSeek-V3 9b4e978,
    inference/model.py).

    Args:
        logits: output of the router, [tokens, experts].
        top_k: experts per token.
        groups: groups of neighbouring experts.
        limited_groups: groups that a token may use; all by default.
        bias: added to the scores for the choice, [experts].
        score: what turns logits into scores.
        scale: factor of the weights.

    Returns:
        Experts by falling score, int64 [tokens, top_k], and their weights, float32 [tokens, top_k].

    Raises:
        InputError: groups do not divide the experts, or hold too few of them.
    """
    raw = np.asarray(logits, dtype=np.float32)
    if raw.ndim != 2:
        message = f"a gate takes logits [tokens, experts], got {raw.shape}"
        raise InputError(message)
    tokens, experts = raw.shape
    most = groups if limited_groups is None else limited_groups
    if groups < 1 or experts % groups:
        message = f"{groups} groups do not divide {experts} experts"
        raise InputError(message)
    if not 1 <= most <= groups or not 1 <= top_k <= most * (experts // groups):
        message = f"a token cannot take {top_k} experts from {most} of {groups} groups of {experts // groups}"
        raise InputError(message)
    scores = _scores(raw, score)
    ranked = scores if bias is None else scores + np.asarray(bias, dtype=np.float32)
    if most < groups:
        by_group = ranked.reshape(tokens, groups, -1)
        counted = 1 if bias is None else min(2, by_group.shape[2])
        worth = np.sort(by_group, axis=2)[:, :, -counted:].sum(axis=2)
        best = np.argsort(-worth, axis=1, kind="stable")[:, :most]
        open_groups = np.zeros((tokens, groups), dtype=bool)
        np.put_along_axis(open_groups, best, True, axis=1)
        ranked = np.where(open_groups[:, :, np.newaxis], by_group, -np.inf).reshape(tokens, experts)
    chosen = np.argsort(-ranked, axis=1, kind="stable")[:, :top_k]
    weights = np.take_along_axis(scores, chosen, axis=1)
    if score == "sigmoid":
        weights = weights / weights.sum(axis=1, keepdims=True)
    return chosen.astype(np.int64), (weights * np.float32(scale)).astype(np.float32)


def _scores(logits: FloatArray, score: str) -> FloatArray:
    if score == "softmax":
        powers = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))
    # Of the two forms of the sigmoid the one that cannot overflow.
    small = np.exp(-np.abs(logits))
    return np.asarray(np.where(logits >= 0, 1.0, small) / (1.0 + small), dtype=np.float32)
