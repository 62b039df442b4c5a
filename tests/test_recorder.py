from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from moesim.errors import InputError
from moesim.routing.recorder import Architecture, Corpus, record, standard_library
from moesim.routing.recorder.corpus import is_held_out, prose_of
from moesim.routing.recorder.tokens import PieceTokeniser
from moesim.routing.trace import RoutingTrace

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch, of the extra 'record', is not installed"
)
SMALL = Architecture(
    vocabulary=320, width=16, layers=3, heads=2, experts=8, top_k=2, intermediate=8, context=16
)


def small_corpus() -> Corpus:
    """Two domains of other words, enough documents that some are held out."""
    words = {"numbers": "one two three four five six seven", "letters": "alpha beta gamma delta epsilon"}
    return Corpus(
        {
            domain: {f"{domain}-{number}": " ".join(text.split()[number % 3 :] * 12) for number in range(30)}
            for domain, text in words.items()
        },
        name="tiny",
        origin="made-up words",
    )


def test_prose_is_docstrings_and_comment_blocks() -> None:
    source = (
        '"""A module docstring that is long enough to be kept as prose."""\n'
        "# A comment that goes over two lines\n"
        "# and is joined into one block of text.\n"
        "x = 1  # short\n"
        'def f():\n    """Too short."""\n'
    )
    assert list(prose_of(source)) == [
        "A module docstring that is long enough to be kept as prose.",
        "A comment that goes over two lines\nand is joined into one block of text.",
    ]
    assert list(prose_of("def broken(:")) == []


def test_documents_are_held_out_by_name_alone() -> None:
    corpus = small_corpus()
    for domain, documents in corpus.domains.items():
        trained = list(corpus.documents(domain, held_out=False))
        held_out = list(corpus.documents(domain, held_out=True))
        assert len(trained) + len(held_out) == len(documents)
        assert len(held_out) == sum(map(is_held_out, documents))
    share = np.mean([is_held_out(f"file{number}.py") for number in range(4000)])
    assert share == pytest.approx(38 / 256, abs=0.02)


def test_corpus_digest_changes_with_any_text() -> None:
    one = small_corpus()
    changed = {domain: dict(documents) for domain, documents in one.domains.items()}
    changed["letters"]["letters-3"] += "!"
    assert small_corpus().sha256 == one.sha256
    assert Corpus(changed, name="tiny", origin="").sha256 != one.sha256


def test_corpus_without_held_out_text_is_refused() -> None:
    with pytest.raises(InputError, match="has no held-out document"):
        Corpus({"d": {"kept": "text"}} if not is_held_out("kept") else {}, name="x", origin="")


@pytest.mark.slow
def test_standard_library_has_three_domains_and_leaves_out_its_tests() -> None:
    corpus = standard_library()
    assert list(corpus.domains) == ["code", "prose", "manual"]
    assert "json/decoder.py" in corpus.domains["code"]
    assert "for" in corpus.domains["manual"]
    folders = {part for name in corpus.domains["code"] for part in name.split("/")[:-1]}
    assert not folders & {"test", "tests", "site-packages", "dist-packages"}
    assert all(sum(map(len, documents.values())) > 100_000 for documents in corpus.domains.values())


def test_tokeniser_is_reversible_and_shortens_text() -> None:
    text = "def café(x):\n    return x + 1  # → twice\n" * 3
    tokeniser = PieceTokeniser([text], 300)
    ids = tokeniser.encode(text)
    assert tokeniser.decode(ids) == text
    assert len(ids) < len(text) / 1.5
    assert ids.max() < 300
    other = "Ünknown wörds, tabs\tand\r\n\x00 bytes"
    assert tokeniser.decode(tokeniser.encode(other)) == other


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"tokens": 0}, "tokens must be greater than or equal to 1, got 0"),
        ({"tokens": "many"}, "tokens must be a valid integer"),
        ({"steps": 0}, "steps must be greater than or equal to 1"),
        ({"architecture": {"top_k": 40}}, "top_k must be at most experts"),
        ({"architecture": {"heads": 3}}, "heads must divide width"),
        ({"architecture": {"with": 3}}, "with"),
    ],
)
@needs_torch
def test_numbers_out_of_range_are_refused(tmp_path: Path, wrong: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        record(tmp_path / "trace", **{"corpus": small_corpus(), "architecture": SMALL, **wrong})


@needs_torch
def test_more_tokens_than_held_out_text_are_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="held-out sequences"):
        record(tmp_path / "t", corpus=small_corpus(), architecture=SMALL, tokens=10**7, steps=10**6)
    assert list(tmp_path.iterdir()) == []


@needs_torch
def test_an_existing_target_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="exists already"):
        record(tmp_path, corpus=small_corpus(), architecture=SMALL, steps=10**6)


def test_missing_torch_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'moesim\[record\]'"):
        record(tmp_path / "trace", corpus=small_corpus(), architecture=SMALL)


@needs_torch
def test_recorded_decisions_are_the_models_own_top_k(tmp_path: Path) -> None:
    """Train again from the same seed, recompute every gate from the router's input, and compare."""
    import torch

    from moesim.routing.recorder.architecture import Training
    from moesim.routing.recorder.training import tokenise, train

    seen: list[tuple[int, int, str]] = []
    recording = record(
        tmp_path / "trace",
        corpus=small_corpus(),
        architecture=SMALL,
        steps=12,
        tokens=90,
        threads=1,
        progress=lambda done, total, what: seen.append((done, total, what)),
    )
    trace = RoutingTrace.open(recording.path)
    trace.verify()
    assert (trace.experts, trace.top_k, trace.layers, trace.tokens) == (8, 2, (0, 1, 2), 96)
    assert trace.tasks == ("numbers", "letters")
    assert [(done, total) for done, total, what in seen if "training" in what] == [
        (n, 12) for n in range(1, 13)
    ]

    material = tokenise(small_corpus(), SMALL)
    model = train(material, SMALL, Training(steps=12, threads=1)).model
    weights = trace.gate_weights(slice(0, 96))
    assert weights is not None
    for sequence in range(6):
        rows = slice(16 * sequence, 16 * sequence + 16)
        task = trace.tasks[sequence % 2]
        assert (np.asarray(trace.task[rows]) == sequence % 2).all()
        assert (np.asarray(trace.sequence[rows]) == sequence).all()
        assert (np.asarray(trace.phase[rows]) == 0).all()
        windows = material.held_out[task]
        window = windows[np.linspace(0, len(windows) - 1, 3).astype(int)[sequence // 2]]
        inputs: list[torch.Tensor] = []
        hooks = [
            block.moe.register_forward_pre_hook(lambda _, given, kept=inputs: kept.append(given[0]))
            for block in model.blocks
        ]
        with torch.inference_mode():
            model(torch.from_numpy(window[np.newaxis]))
        for hook in hooks:
            hook.remove()
        for layer, block in enumerate(model.blocks):
            gates = (inputs[layer].numpy() @ block.moe.router.weight.detach().numpy().T).astype(np.float64)
            gates = np.exp(gates - gates.max(axis=1, keepdims=True))
            order = np.argsort(-gates, axis=1)[:, :2]
            np.testing.assert_array_equal(trace.ids[rows][:, layer], order)
            best = np.take_along_axis(gates, order, axis=1)
            np.testing.assert_allclose(
                weights[rows][:, layer], best / best.sum(axis=1, keepdims=True), atol=1e-3
            )


@needs_torch
def test_training_lowers_the_held_out_loss_and_says_so(tmp_path: Path) -> None:
    recording = record(
        tmp_path / "trace", corpus=small_corpus(), architecture=SMALL, steps=150, tokens=32, threads=1
    )
    for before, after in recording.held_out_loss.values():
        assert after < 0.7 * before
    first, last = recording.training_loss
    assert last < 0.8 * first
    manifest = RoutingTrace.open(recording.path).manifest
    for fact in ("made-up words", "steps 150", "seed 0", "corpus sha256", "torch", f"{last:.4f}"):
        assert fact in manifest.provenance


@needs_torch
def test_recording_leaves_torch_as_it_was(tmp_path: Path) -> None:
    import torch

    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), torch.get_rng_state()
    record(tmp_path / "t", corpus=small_corpus(), architecture=SMALL, steps=1, tokens=1, threads=1)
    assert before[0] == torch.get_num_threads()
    assert before[1] == torch.are_deterministic_algorithms_enabled()
    assert torch.equal(before[2], torch.get_rng_state())


SHIPPED = Path(__file__).resolve().parents[1] / "traces" / "pystdlib-moe-6x32"


def test_shipped_trace_is_whole_and_says_how_it_was_made() -> None:
    trace = RoutingTrace.open(SHIPPED)
    trace.verify()
    assert (trace.experts, trace.top_k, trace.layers) == (32, 4, tuple(range(6)))
    assert trace.tasks == ("code", "prose", "manual")
    assert trace.tokens >= 40960
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) < 5e6
    for fact in ("Python 3", "torch", "seed 0", "steps", "held-out loss", "corpus sha256"):
        assert fact in trace.manifest.provenance


def test_shipped_trace_is_skewed_as_real_models_are_and_uses_every_expert() -> None:
    trace = RoutingTrace.open(SHIPPED)
    task = np.asarray(trace.task)
    for layer in range(6):
        counts = np.stack(
            [np.bincount(trace.ids[task == one, layer].ravel(), minlength=32) for one in range(3)]
        )
        pooled = counts.sum(axis=0)
        assert pooled.min() > 0
        assert 1.3 < pooled.max() / pooled.mean() < 6
        assert (counts.max(axis=1) / counts.mean(axis=1)).max() > pooled.max() / pooled.mean()
