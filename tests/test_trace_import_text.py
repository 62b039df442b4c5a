"""Importing generic JSON and CSV, and the registry of importers."""

from __future__ import annotations

import json

import pytest

from moesim.errors import InputError
from moesim.routing.importers import import_trace, importer_kinds, importer_options, importer_summary


def test_selected_experts_as_json_and_json_lines(tmp_path):
    tokens = [
        {"ids": [[0, 1], [2, 3]], "weights": [[0.5, 0.5], [1, 0]], "task": "law", "phase": "prefill"},
        {"ids": [[3, 1], [0, 2]], "weights": [[0.25, 0.5], [1, 0]], "task": "code", "phase": "decode"},
    ]
    (tmp_path / "a.json").write_text(json.dumps({"experts": 4, "layers": [1, 5], "tokens": tokens}))
    (tmp_path / "b.jsonl").write_text("\n".join(json.dumps(token) for token in tokens))
    (tmp_path / "c.json").write_text(json.dumps([token["ids"] for token in tokens]))
    a = import_trace("json", tmp_path / "a.json", tmp_path / "a")
    b = import_trace("json", tmp_path / "b.jsonl", tmp_path / "b", experts=4, layers=[1, 5], tasks="law,code")
    c = import_trace("json", tmp_path / "c.json", tmp_path / "c", experts=4)
    for trace in (a, b):
        assert trace.layers == (1, 5)
        assert trace.tasks == ("law", "code")
        assert trace.task.tolist() == [0, 1]
        assert trace.phase.tolist() == [0, 1]
        assert trace.weights.tolist() == [token["weights"] for token in tokens]
    for trace in (a, b, c):
        assert trace.ids.tolist() == [token["ids"] for token in tokens]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"x\.jsonl:1:2: this is not valid JSON"),
        ("[[0, 1]]\n\n[[0, 1", r"x\.jsonl:3:\d+: this is not valid JSON"),
        ("[[0, 1]]\n[[0, 1, 2]]", r"x\.jsonl:2: line 2 has \(1, 3\)"),
        ("[[0, 1]]\n[[0, 7]]", "token 1, layer column 0: expert id 7"),
        ('[[0, 1]]\n{"ids": [[0, 1]], "phase": 0}', "line 2 has other fields"),
        ('{"ids": [[0, 1]], "phase": "decoding"}', "'decoding' is not a phase"),
        ('{"ids": [[0, 1]], "weights": [[1]]}', "the weights have shape"),
        ('{"ids": [[0, 1]], "colour": 1}', "unknown field 'colour'"),
        ("5", "neither a list of layers"),
        ("", "not a single token"),
        ("[" * 5000, "nested too deeply"),
    ],
)
def test_wrong_json_lines_are_named(tmp_path, text, message):
    (tmp_path / "x.jsonl").write_text(text)
    with pytest.raises(InputError, match=message):
        import_trace("json", tmp_path / "x.jsonl", tmp_path / "t", experts=4)
    assert not (tmp_path / "t").exists()


def test_counts_as_csv(tmp_path):
    (tmp_path / "c.csv").write_text(
        "Layer,expert,count,step\n3,0,5,1\n3,2,1,1\n\n7,1,6,0\n3,1,2,0\n7,0,9,1\n"
    )
    trace = import_trace("counts-csv", tmp_path / "c.csv", tmp_path / "t", experts="3", top_k=1)
    assert trace.layers == (3, 7)
    assert trace.counts.tolist() == [[[0, 2, 0], [0, 6, 0]], [[5, 0, 1], [9, 0, 0]]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("layer,expert\n0,1", r"c\.csv:1: the header must name"),
        ("layer,expert,count\n0,1", r"c\.csv:2: 2 fields"),
        ("layer,expert,count\n0,1,2\n0,x,2", r"c\.csv:3:2: 'x' is not a whole number"),
        ("layer,expert,count\n0,1,-2", r"c\.csv:2:3: '-2'"),
        ("layer,expert,count\n0,9,2", r"c\.csv:2: expert 9 is outside"),
        ("layer,expert,count\n0,1,2\n0,1,2", r"c\.csv:3: step 0, layer 0, expert 1 is counted a second time"),
        ("layer,expert,count\n", "not a single count"),
        ("", "header"),
    ],
)
def test_wrong_csv_is_named_by_line_and_column(tmp_path, text, message):
    (tmp_path / "c.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        import_trace("counts-csv", tmp_path / "c.csv", tmp_path / "t", experts=4, top_k=1)


def test_importers_are_listed_with_their_options(tmp_path):
    assert importer_kinds() == ["counts-csv", "esft", "json", "npz", "parquet", "sglang", "vllm"]
    for kind in importer_kinds():
        assert importer_summary(kind).endswith(".")
        assert "overwrite" in importer_options(kind)
    for kind, options, message in (
        ("esf", {}, "did you mean 'esft'"),
        ("npz", {}, "needs the option 'experts'"),
        ("npz", {"experts": "many"}, "option 'experts' of the importer 'npz' is wrong"),
        ("npz", {"expert": 4}, "did you mean 'experts'"),
        ("npz", {"experts": 4}, "no such file"),
    ):
        with pytest.raises(InputError, match=message):
            import_trace(kind, tmp_path / "absent", tmp_path / "t", **options)
