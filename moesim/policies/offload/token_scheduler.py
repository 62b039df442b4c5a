"""ExpertFlow's token scheduler: two batches made anew so that each needs fewer experts (arXiv 2410.17954)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.errors import InputError

Routes = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Regrouped:
    """Two batches of one size.

    Attributes:
        first: tokens of the first batch, rising, int64 [T].
        second: those of the second, int64 [T].
        needed: experts of all layers that the first batch needs plus those of the second.
        given: the same for the batches as they were: tokens 0 to T - 1, and T to 2 T - 1.
        rounds: rounds until nothing changed, or until the bound.
    """

    first: Ints
    second: Ints
    needed: int
    given: int
    rounds: int


def similarity(routes: Routes) -> npt.NDArray[np.float64]:
    """Return 1 - Hamming distance / columns of each two tokens' routes, [tokens, tokens]."""
    ones = routes.astype(np.float64)
    count = ones.sum(axis=1)
    apart = count[:, np.newaxis] + count - 2 * (ones @ ones.T)
    same: npt.NDArray[np.float64] = 1 - apart / max(routes.shape[1], 1)
    return same


def needed(routes: Routes, first: Ints, second: Ints) -> int:
    """Return the distinct experts of one batch plus those of the other."""
    return int(routes[first].any(axis=0).sum() + routes[second].any(axis=0).sum())


def centre_of(same: npt.NDArray[np.float64], part: Ints) -> int:
    """Return the token of a batch that is most similar to the batch on average; the first of equals."""
    return int(part[np.argmax(same[np.ix_(part, part)].sum(axis=1))])


def regroup(routes: Routes, most_rounds: int = 20) -> Regrouped:
    """Split the tokens of two batches into two of the same size that need fewer experts in sum.

    K-means with sizes held: tokens go to the more similar of two centres as long as half of them does,
    then the token most similar on average to its batch becomes the centre. It begins with the two least
    similar tokens and ends when the split stays. The best split seen is returned, the given one included;
    of two batches the one that keeps more tokens of the first is called the first.

    Args:
        routes: which experts of which layer each token needs, bool [2 T, layers x experts].
        most_rounds: bound of the rounds.

    Raises:
        InputError: the number of tokens is odd or none.
    """
    tokens = len(routes)
    if tokens == 0 or tokens % 2:
        message = f"{tokens} tokens are not two batches of one size"
        raise InputError(message, hint="give an even number of tokens")
    half = tokens // 2
    everyone = np.arange(tokens)
    best = (everyone[:half], everyone[half:])
    before = least = needed(routes, *best)
    same = similarity(routes)
    apart = same + np.where(np.eye(tokens, dtype=bool), np.inf, 0)
    centres = divmod(int(np.argmin(apart)), tokens)
    member = np.zeros(tokens, dtype=bool)
    rounds = 0
    for rounds in range(1, most_rounds + 1):
        lead = same[:, centres[0]] - same[:, centres[1]]
        now = np.zeros(tokens, dtype=bool)
        now[np.argsort(-lead, kind="stable")[:half]] = True
        if rounds > 1 and (now == member).all():
            break
        member = now
        split = (everyone[member], everyone[~member])
        total = needed(routes, *split)
        if total < least:
            best, least = split, total
        centres = (centre_of(same, split[0]), centre_of(same, split[1]))
    first, second = best
    if (first < half).sum() < (second < half).sum():
        first, second = second, first
    return Regrouped(first, second, least, before, rounds)
