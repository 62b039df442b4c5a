"""Train the small language model and read its router decisions.

Needs torch; imported only by functions that record.
"""
# mypy: allow-untyped-calls, no-warn-return-any

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from moesim.routing.recorder.architecture import Architecture, Training
from moesim.routing.recorder.corpus import Corpus
from moesim.routing.recorder.model import LanguageModel
from moesim.routing.recorder.tokens import PieceTokeniser

Ids = npt.NDArray[np.int64]
Progress = Callable[[int, int, str], None]
"""Called with steps done, steps in all and a word on what is being done."""

_BATCH = 16


@dataclass(frozen=True)
class Material:
    """A corpus as token ids.

    Attributes:
        training: one stream per domain, int64 [tokens].
        held_out: windows per domain, int64 [windows, context].
    """

    training: Mapping[str, Ids]
    held_out: Mapping[str, Ids]


@dataclass(frozen=True)
class Trained:
    """A trained model and how well it has learnt.

    Attributes:
        model: the language model.
        losses: training cross-entropy of every step, nats per token.
        held_out_losses: mean cross-entropy per domain over at most 64 windows, before and after training.
    """

    model: LanguageModel
    losses: tuple[float, ...]
    held_out_losses: Mapping[str, tuple[float, float]]


def tokenise(corpus: Corpus, shape: Architecture) -> Material:
    """Turn a corpus into token ids; the vocabulary is learnt from the training documents."""
    texts = (text for domain in corpus.domains for text in corpus.documents(domain, held_out=False))
    tokeniser = PieceTokeniser(texts, shape.vocabulary)
    streams: dict[str, Ids] = {}
    windows: dict[str, Ids] = {}
    for domain in corpus.domains:
        parts = {
            side: np.concatenate([tokeniser.encode(text) for text in corpus.documents(domain, held_out=side)])
            for side in (False, True)
        }
        streams[domain] = _at_least(parts[False], shape.context + 2)
        whole = _at_least(parts[True], shape.context)
        count = len(whole) // shape.context
        windows[domain] = whole[: count * shape.context].reshape(count, shape.context)
    return Material(streams, windows)


def train(
    material: Material, shape: Architecture, training: Training, progress: Progress | None = None
) -> Trained:
    """Train a model on the training text of every domain.

    Domains are drawn in proportion to the square root of their size, so that the small ones are learnt too.
    """
    draw = np.random.default_rng(np.random.SeedSequence([training.seed, 1]))
    sources = list(material.training.values())
    share = np.sqrt([len(stream) for stream in sources])
    share /= share.sum()
    with _reproducible(training):
        model = LanguageModel(shape)
        before = {domain: held_out_loss(model, windows) for domain, windows in material.held_out.items()}
        optimiser = torch.optim.AdamW(
            model.parameters(), lr=training.learning_rate, betas=(0.9, 0.95), weight_decay=0.01
        )
        losses: list[float] = []
        for step in range(training.steps):
            for group in optimiser.param_groups:
                group["lr"] = training.learning_rate * _schedule(step, training.steps)
            batch = torch.from_numpy(_batch(draw, sources, share, training.sequences, shape.context + 1))
            logits, balance, _ = model(batch[:, :-1])
            loss = functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
            optimiser.zero_grad(set_to_none=True)
            (loss + training.balance * balance).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            losses.append(float(loss.detach()))
            if progress is not None:
                progress(step + 1, training.steps, f"training, loss {losses[-1]:.3f}")
        after = {domain: held_out_loss(model, windows) for domain, windows in material.held_out.items()}
    both = {domain: (before[domain], after[domain]) for domain in material.held_out}
    return Trained(model, tuple(losses), both)


def decisions(model: LanguageModel, windows: Ids) -> Iterator[tuple[Ids, npt.NDArray[np.float32]]]:
    """Yield the router decisions of each window: ids and gate weights, [context, layers, top_k]."""
    model.eval()
    for start in range(0, len(windows), _BATCH):
        part = torch.from_numpy(windows[start : start + _BATCH])
        with torch.inference_mode():
            _, _, chosen = model(part)
        ids = torch.stack([one for one, _ in chosen], dim=1).numpy()
        weights = torch.stack([one for _, one in chosen], dim=1).numpy()
        yield from zip(
            ids.reshape(*part.shape, *ids.shape[1:]),
            weights.reshape(*part.shape, *ids.shape[1:]),
            strict=True,
        )


def held_out_loss(model: LanguageModel, windows: Ids, limit: int = 64) -> float:
    """Return the mean cross-entropy (nats per token) over up to ``limit`` windows spread over all of them."""
    picked = windows[np.linspace(0, len(windows) - 1, min(limit, len(windows))).astype(np.int64)]
    total = 0.0
    for start in range(0, len(picked), _BATCH):
        part = torch.from_numpy(picked[start : start + _BATCH])
        with torch.inference_mode():
            logits, _, _ = model(part[:, :-1])
            loss = functional.cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten(), reduction="sum")
        total += float(loss)
    return total / (len(picked) * (windows.shape[1] - 1))


def _at_least(ids: Ids, length: int) -> Ids:
    """Repeat a text that is too short for one window."""
    return np.tile(ids, max(1, -(-length // max(1, len(ids)))))


def _batch(
    draw: np.random.Generator, sources: list[Ids], share: npt.NDArray[np.float64], count: int, length: int
) -> Ids:
    picks = draw.choice(len(sources), size=count, p=share)
    starts = [int(draw.integers(0, len(sources[pick]) - length)) for pick in picks]
    return np.stack(
        [sources[pick][start : start + length] for pick, start in zip(picks, starts, strict=True)]
    )


def _schedule(step: int, steps: int) -> float:
    warm = max(1, steps // 20)
    if step < warm:
        return (step + 1) / warm
    return 0.1 + 0.45 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


@contextmanager
def _reproducible(training: Training) -> Iterator[None]:
    """Seed torch and fix its threads and algorithms inside the block; put everything back after it."""
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng(devices=[]):
        try:
            torch.manual_seed(training.seed)
            torch.set_num_threads(training.threads)
            torch.use_deterministic_algorithms(True)
            yield
        finally:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(strict)
