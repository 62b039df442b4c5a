"""Tokens one by one, request by request: what caches of experts and predictors need to see.

A *request* is one sequence: its prompt and what is decoded after it. Sources that know single tokens
(recorded traces, and generators that draw tokens) give the experts of each in order; a load only counts them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from moesim.errors import InputError
from moesim.routing.load import IntArray
from moesim.routing.source import RoutingSource

FloatArray = npt.NDArray[np.float64]

SHARPNESS: Final = 1.3
"""Standard deviation of router logits that gives the gate weights of DeepSeek-V2-Lite: of its six, sorted and
normalised, .331, .196, .149, .123, .106 and .095 (mean over the ESFT traces of intent, summary and
translation); six of 64 normal logits of this spread give .332, .198, .150, .123, .105 and .092."""


@dataclass(frozen=True, eq=False)
class Tokens:
    """Consecutive tokens of one request.

    Attributes:
        ids: experts, int64 [tokens, layers, k], distinct within a token and layer.
        weights: their gate weights, [tokens, layers, k], in any unit; None where they were not recorded.
    """

    ids: IntArray
    weights: FloatArray | None

    def __len__(self) -> int:
        """Return the number of tokens."""
        return len(self.ids)


@runtime_checkable
class TokenSource(Protocol):
    """A routing source that knows single tokens; a pure function of the request's number."""

    def request(self, number: int, tokens: int) -> Tokens:
        """Return the first tokens of a request, prompt first.

        Args:
            number: of the request, from 0.
            tokens: how many.

        Raises:
            InputError: the source knows no tokens.
        """
        ...

    def past(self, tokens: int) -> list[Tokens]:
        """Return requests of the past that policies may learn from, at most so many tokens in all."""
        ...


def token_source(source: RoutingSource) -> TokenSource:
    """Return a source that gives tokens.

    Raises:
        InputError: it gives loads only.
    """
    inner = getattr(source, "source", source)
    if not isinstance(inner, TokenSource):
        message = f"the routing '{source.name}' gives loads of experts, not the experts of single tokens"
        hint = "use a trace of tokens, or one of the generators local, affinity, zipf, dirichlet, uniform"
        raise InputError(message, hint=hint)
    return inner


def gate_weights(
    draw: np.random.Generator, shape: tuple[int, ...], experts: int, sharpness: float = SHARPNESS
) -> FloatArray:
    """Draw gate weights: the largest of ``experts`` normal logits, through a softmax over these.

    Args:
        draw: random stream.
        shape: [..., k]; the last axis holds the chosen experts, the most important one first.
        experts: experts that the router chose from.
        sharpness: standard deviation of the logits.

    Returns:
        Weights [..., k], falling, each token's sum 1.
    """
    k = shape[-1]
    # The largest of n uniform numbers is u**(1/n), the next one is the largest of n-1 below it.
    log_top = np.cumsum(np.log(draw.random(shape)) / (experts - np.arange(k)), axis=-1)
    logits = sharpness * ndtri(np.exp(np.minimum(log_top, -1e-16)))
    raised = np.exp(logits - logits[..., :1])
    return np.asarray(raised / raised.sum(axis=-1, keepdims=True))
