"""Importing ids per token: ESFT text logs and .npz files, mistakes named with their place."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from moesim.errors import InputError
from moesim.routing.importers import import_trace

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "traces" / "esft_deepseek_v2_lite"


@pytest.fixture
def esft(tmp_path: Path) -> Path:
    """Two tasks, layers 1 and 12, sequences of 2 and 1 tokens, top-2."""
    for task, layer, lines in (
        ("law", 1, ["0\t1\t2\t3\t\t0.5\t0.25\t0.125\t1.0", "3\t2\t\t0.1\t0.2"]),
        ("law", 12, ["5\t1\t2\t4\t\t0.5\t0.25\t0.125\t1.0", "0\t2\t\t0.3\t0.0414"]),
        ("code", 1, ["1\t0\t\t0.5\t0.5"]),
        ("code", 12, ["1\t5\t\t0.5\t0.5"]),
    ):
        directory = tmp_path / "logs" / task / ("rank_0" if task == "code" else "")
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"expert_weights_{layer}.txt").write_text("\n".join(lines) + "\n")
    return tmp_path / "logs"


def test_an_esft_line_is_a_sequence(esft, tmp_path):
    trace = import_trace("esft", esft, tmp_path / "t", experts=6, top_k="2")
    trace.verify()
    assert trace.layers == (1, 12)
    assert trace.tasks == ("code", "law")
    assert trace.ids.tolist() == [
        [[1, 0], [1, 5]],
        [[0, 1], [5, 1]],
        [[2, 3], [2, 4]],
        [[3, 2], [0, 2]],
    ]
    assert trace.task.tolist() == [0, 1, 1, 1]
    assert trace.sequence.tolist() == [0, 1, 1, 2]
    assert trace.weights[3].tolist() == [[1000, 2000], [3000, 414]]


def test_esft_files_of_one_token_per_line_end_sequences_with_blank_lines(tmp_path):
    (tmp_path / "logs").mkdir()
    text = "0\t1\t0.5\t0.25\n2\t0.5\t3\t0.25\n\n1\t2\t\t0.5\t0.5\n"
    (tmp_path / "logs" / "expert_weights_3.txt").write_text(text)
    trace = import_trace("esft", tmp_path / "logs", tmp_path / "t", experts=4, top_k=2)
    assert trace.ids.tolist() == [[[0, 1]], [[2, 3]], [[1, 2]]]
    assert trace.sequence.tolist() == [0, 0, 1]
    assert trace.tasks == ("logs",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "0\t1\t2\t3\t\t.5\t.5\t.5\t.5\n0\t9\t\t.5\t.5",
            r"_12\.txt:2: field 2: expert id 9 is outside 0\.\.5",
        ),
        ("0\t1\t2\t3\t\t.5\t.5\t.5\t.5\n0\tx\t\t.5\t.5", r"_12\.txt:2: field 2: 'x' is not an expert id"),
        ("0\t1\t2\t3\t\t.5\t.5\t.5\t.5\n0\t1\t\t.5\t?", r"_12\.txt:2: field 5: '\?' is not a gate weight"),
        ("0\t1\t2\t3\t\t.5\t.5\t.5\t.5\n0\t1\t\t.5\tnan", r"_12\.txt:2: weight 2: nan"),
        ("0\t1\t2\t3\t\t.5\t.5\t.5\t.5\n0\t1\t4\t\t.5\t.5", r"_12\.txt:2: 3 ids and 2 weights"),
        ("0\t1\t2\t3\t\t.5\t.5\t.5\t.5", r"_12\.txt:2: 0 ids"),
        ("0\t1\t\t.5\t.5\n0\t1\t\t.5\t.5", r"_12\.txt:1: 1 tokens where 'expert_weights_1\.txt' has 2"),
    ],
)
def test_wrong_esft_lines_are_named(esft, tmp_path, text, message):
    (esft / "law" / "expert_weights_12.txt").write_text(text)
    with pytest.raises(InputError, match=message):
        import_trace("esft", esft, tmp_path / "t", experts=6, top_k=2)
    assert not (tmp_path / "t").exists()


def test_esft_tasks_must_log_the_same_layers(esft, tmp_path):
    (esft / "law" / "expert_weights_12.txt").unlink()
    with pytest.raises(InputError, match=r"logs layers \[1\]"):
        import_trace("esft", esft, tmp_path / "t", experts=6, top_k=2)
    with pytest.raises(InputError, match="expert_weights_<layer>"):
        import_trace("esft", tmp_path / "absent", tmp_path / "t")


@pytest.mark.skipif(not SHARED.is_dir(), reason="the recorded ESFT data beside the repository are absent")
def test_the_published_esft_recording_imports_exactly(tmp_path):
    trace = import_trace("npz", SHARED, tmp_path / "t", experts=64, model="DeepSeek-V2-Lite")
    trace.verify()
    assert trace.tokens == 24_952
    assert trace.layers == tuple(range(1, 27))
    assert trace.tasks == ("intent", "summary", "translation")
    start = 0
    for task in trace.tasks:
        with np.load(SHARED / f"{task}.npz") as arrays:
            rows = slice(start, start + len(arrays["ids"]))
            assert np.array_equal(trace.ids[rows], arrays["ids"])
            assert np.array_equal(trace.weights[rows], arrays["weights_e4"])
            start = rows.stop
    info = trace.info()
    assert info["sequences"] == 127 + 13 + 40
    assert info["tasks"] == {"intent": 8222, "summary": 8479, "translation": 8251}


@pytest.mark.skipif(not SHARED.is_dir(), reason="the recorded ESFT data beside the repository are absent")
def test_esft_text_and_npz_of_the_same_tokens_give_the_same_trace(tmp_path):
    with np.load(SHARED / "intent.npz") as arrays:
        ids, weights, lengths = (arrays[name] for name in ("ids", "weights_e4", "seq_len"))
    ids, weights, lengths = ids[: lengths[:5].sum()], weights[: lengths[:5].sum()], lengths[:5]
    (tmp_path / "logs" / "intent").mkdir(parents=True)
    for layer in range(26):
        lines = []
        for end, length in zip(np.cumsum(lengths), lengths, strict=True):
            left = "\t".join(str(value) for value in ids[end - length : end, layer].ravel())
            right = "\t".join(str(value / 1e4) for value in weights[end - length : end, layer].ravel())
            lines.append(f"{left}\t\t{right}\n")
        (tmp_path / "logs" / "intent" / f"expert_weights_{layer + 1}.txt").write_text("".join(lines))
    np.savez(tmp_path / "intent.npz", ids=ids, weights_e4=weights, seq_len=lengths)
    same = {"experts": 64, "model": "m", "provenance": "p"}
    one = import_trace("esft", tmp_path / "logs", tmp_path / "a", **same)
    other = import_trace("npz", tmp_path / "intent.npz", tmp_path / "b", first_layer=1, **same)
    assert one.manifest == other.manifest


def test_npz_mistakes_are_named(tmp_path):
    ids = np.zeros((3, 2, 1), dtype=np.int64)
    cases = [
        ({"weights": np.ones(3)}, "no array 'ids'"),
        ({"ids": ids, "other": ids}, "'other' is not known"),
        ({"ids": ids[0]}, "3 axes"),
        ({"ids": ids, "weights": np.ones((3, 2, 2))}, "'weights' has shape"),
        ({"ids": ids, "weights": np.full((3, 2, 1), np.nan)}, "gate weight nan"),
        ({"ids": ids, "seq_len": np.array([2, 2])}, "adds up to 4"),
        ({"ids": ids, "sequence": np.array([1])}, "'sequence' has 1"),
        ({"ids": ids + 9}, "expert id 9"),
        ({"ids": np.array([object()])}, "plain numbers"),
    ]
    for number, (arrays, message) in enumerate(cases):
        np.savez(tmp_path / f"{number}.npz", **arrays)
        with pytest.raises(InputError, match=message):
            import_trace("npz", tmp_path / f"{number}.npz", tmp_path / "t", experts=4)
    (tmp_path / "no.npz").write_bytes(b"PK\x03\x04nonsense")
    with pytest.raises(InputError, match="not a readable"):
        import_trace("npz", tmp_path / "no.npz", tmp_path / "t", experts=4)


def test_an_npz_whose_header_promises_more_than_it_holds_is_refused(tmp_path):
    from moesim.routing.format import npy_header

    with zipfile.ZipFile(tmp_path / "bomb.npz", "w") as archive:
        archive.writestr("ids.npy", npy_header(np.dtype(np.uint8), (1 << 45, 2, 1)) + b"\0" * 10)
    with pytest.raises(InputError, match="damaged"):
        import_trace("npz", tmp_path / "bomb.npz", tmp_path / "t", experts=4)
