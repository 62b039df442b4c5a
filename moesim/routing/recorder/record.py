"""From nothing to a routing trace: corpus, training, recording, provenance."""

from __future__ import annotations

import importlib.util
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from moesim.errors import InputError
from moesim.routing.recorder.architecture import Architecture, Sample, Training, settings
from moesim.routing.recorder.corpus import Corpus, standard_library
from moesim.routing.staging import StagedDirectory
from moesim.routing.writer import TraceWriter

if TYPE_CHECKING:
    from moesim.routing.recorder.training import Progress, Trained

LICENCE: Final = "Apache-2.0; expert ids and gate weights only, no text"


@dataclass(frozen=True)
class Recording:
    """What was recorded and how well the model had learnt.

    Attributes:
        path: the trace directory.
        tokens: recorded tokens.
        training_loss: mean cross-entropy of the first and of the last tenth of the steps, nats per token.
        held_out_loss: cross-entropy per domain before and after training, nats per token.
        provenance: the account that the trace's manifest carries.
    """

    path: Path
    tokens: int
    training_loss: tuple[float, float]
    held_out_loss: Mapping[str, tuple[float, float]]
    provenance: str


def record(
    target: str | Path,
    *,
    steps: int = 500,
    seed: int = 0,
    tokens: int = 40960,
    threads: int = 1,
    balance: float = 0.001,
    architecture: Architecture | Mapping[str, object] | None = None,
    corpus: Corpus | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Recording:
    """Train a mixture-of-experts language model and write its router decisions over held-out text.

    The text is read, not generated (teacher forcing), so every token is of phase ``prefill``. Sequences
    of the domains take turns, as requests of mixed traffic would. The task of a token is its domain.

    Args:
        target: trace directory to create.
        steps: training steps.
        seed: of the initial weights and the batches.
        tokens: tokens to record, rounded up to whole sequences of each domain.
        threads: CPU threads.
        balance: weight of the auxiliary balance loss; smaller gives a more skewed routing.
        architecture: sizes of the model; 6 layers of 32 experts with top-4 unless said.
        corpus: text by domain; the standard library when None.
        overwrite: replace a trace that exists.
        progress: called with steps done, steps in all and what is being done.

    Raises:
        InputError: torch is missing, a number is out of range, the corpus has too little held-out text,
            or the target cannot be written.
    """
    if importlib.util.find_spec("torch") is None:
        message = "recording a trace trains a small model and needs torch, which is not installed"
        raise InputError(message, hint="pip install 'moesim[record]'")
    from moesim.routing.recorder.training import decisions, tokenise, train

    shape = architecture
    if not isinstance(shape, Architecture):
        shape = settings(Architecture, **(shape or {}))
    training = settings(Training, steps=steps, seed=seed, threads=threads, balance=balance)
    text = corpus or standard_library()
    wanted = settings(Sample, tokens=tokens).tokens
    each = -(-wanted // (shape.context * len(text.domains)))  # whole sequences of each domain
    # A target that cannot be written must fail before the training, not after it.
    StagedDirectory(target, overwrite).abandon()
    material = tokenise(text, shape)
    windows = {domain: _spread(domain, found, each) for domain, found in material.held_out.items()}
    trained = train(material, shape, training, progress)
    account = _provenance(trained, text, shape, training)
    with TraceWriter(
        target,
        model=f"{text.name}-moe-{shape.layers}x{shape.experts}",
        experts=shape.experts,
        top_k=shape.top_k,
        layers=range(shape.layers),
        tasks=tuple(text.domains),
        provenance=account,
        licence=LICENCE,
        weights=True,
        overwrite=overwrite,
    ) as writer:
        streams = [(domain, decisions(trained.model, found)) for domain, found in windows.items()]
        for sequence in range(each * len(streams)):
            domain, stream = streams[sequence % len(streams)]
            ids, weights = next(stream)
            writer.append(ids, weights=weights, sequence=sequence, phase="prefill", task=domain)
            if progress is not None:
                progress(sequence + 1, each * len(streams), "recording")
    return Recording(
        Path(target), each * len(streams) * shape.context, _ends(trained), trained.held_out_losses, account
    )


def _spread(domain: str, windows: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """Take windows spread evenly over the held-out text of a domain."""
    if count > len(windows):
        message = f"domain '{domain}' has {len(windows)} held-out sequences, {count} are needed"
        raise InputError(message, hint="record fewer tokens")
    return windows[np.linspace(0, len(windows) - 1, count).astype(np.int64)]


def _ends(trained: Trained) -> tuple[float, float]:
    part = max(1, len(trained.losses) // 10)
    return float(np.mean(trained.losses[:part])), float(np.mean(trained.losses[-part:]))


def _provenance(trained: Trained, corpus: Corpus, shape: Architecture, training: Training) -> str:
    return "; ".join(_facts(trained, corpus, shape, training))


def _facts(trained: Trained, corpus: Corpus, shape: Architecture, training: Training) -> Iterator[str]:
    """Yield what someone needs to make the trace again and to see whether it came out the same."""
    import torch

    import moesim

    parameters = sum(weight.numel() for weight in trained.model.parameters())
    first, last = _ends(trained)
    yield f"recorded by 'moesim trace record' of moesim {moesim.__version__}"
    yield "router decisions (softmax, then top-k, gate weights renormalised to 1) of a language model"
    yield f"trained for this purpose, {parameters} parameters, on {corpus.origin}"
    yield f"Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}"
    yield f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    yield "model " + ", ".join(f"{key} {value}" for key, value in shape.model_dump().items())
    yield "training " + ", ".join(f"{key} {value}" for key, value in training.model_dump().items())
    yield f"training loss {first:.4f} -> {last:.4f} nats per token (first and last tenth of the steps)"
    losses = ", ".join(
        f"{domain} {before:.4f} -> {after:.4f}" for domain, (before, after) in trained.held_out_losses.items()
    )
    yield f"held-out loss before -> after training {losses}"
    yield f"teacher-forced reading of held-out documents in sequences of {shape.context} tokens, all prefill"
    yield f"corpus sha256 {corpus.sha256}"
