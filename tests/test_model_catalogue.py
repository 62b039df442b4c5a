from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from moesim.errors import InputError
from moesim.model import load_model, model_from_mapping, model_names
from moesim.model.catalogue import entries
from moesim.model.document import page

ROOT = Path(__file__).resolve().parents[1]
MEASURED = ROOT.parent / "shared" / "data" / "models.json"


def test_catalogue_is_rich_and_its_names_differ_beyond_case():
    names = model_names()
    assert len(names) >= 25
    assert len({name.lower() for name in names}) == len(names)


@pytest.mark.parametrize("name", model_names())
def test_derived_total_is_within_half_a_percent_of_the_report(name):
    model = load_model(name)
    if model.reported.total is None:
        assert "no total" in entries()[name]["notes"]
        return
    off = abs(model.total_params / model.reported.total - 1)
    # an exception that is not needed would hide a later mistake
    assert (off > 0.005) == bool(model.reported.exception)
    assert off < 0.03


@pytest.mark.parametrize("name", model_names())
def test_active_parameters_match_the_report_under_its_convention(name):
    model = load_model(name)
    if model.reported.active is not None:
        off = abs(model.active_params(model.reported.convention) / model.reported.active - 1)
        assert (off > 0.02) == bool(model.reported.active_exception)
        assert off < 0.05


@pytest.mark.parametrize("name", model_names())
def test_every_model_has_sound_dimensions_and_a_source(name):
    model = load_model(name)
    assert model.name == name
    assert model.source
    assert [layer.index for layer in model.layers] == list(range(len(model.layers)))
    assert 1 <= model.top_k <= model.experts
    assert model.experts % model.n_group == 0
    assert 0 < model.expert_bytes < model.weight_bytes
    assert model.resident_bytes < model.weight_bytes
    assert model.token_bytes == 2 * model.hidden
    assert model.kv_bytes_per_token(1) <= model.kv_bytes_per_token()


@pytest.mark.parametrize("name", model_names())
def test_layers_of_one_kind_share_their_parts(name):
    layers = load_model(name).moe_layers
    assert len({id(layer.experts) for layer in layers}) == 1
    assert len({id(layer.attention) for layer in layers}) <= 2


@pytest.mark.skipif(not MEASURED.exists(), reason="the independent counts in ../shared are not here")
def test_totals_and_caches_agree_with_an_independent_count():
    compared = 0
    for entry in json.loads(MEASURED.read_text())["models"]:
        derived = entry.get("derived") or {}
        if entry["name"] not in model_names() or not derived.get("total_params"):
            continue
        model = load_model(entry["name"])
        # hybrid attention and expert biases are counted more closely here than there
        assert model.total_params == pytest.approx(derived["total_params"], rel=4e-3)
        if derived.get("kv_elements_per_token"):
            assert model.kv_bytes_per_token() == 2 * derived["kv_elements_per_token"]
            assert model.total_params == derived["total_params"]
            compared += 1
    assert compared >= 25


def test_names_are_found_in_any_case_and_unknown_ones_get_the_nearest():
    assert load_model("deepseek-v3") is load_model("DeepSeek-V3")
    with pytest.raises(InputError, match=r"no model named 'DeepSeek-V9'.*did you mean 'DeepSeek-V"):
        load_model("DeepSeek-V9")


def test_models_load_fast():
    entries.cache_clear()
    start = time.perf_counter()
    model_from_mapping({"name": "Qwen3-235B-A22B", **entries()["Qwen3-235B-A22B"]})
    assert time.perf_counter() - start < 0.5  # about 0.02 s; the bound leaves room for a loaded machine


def test_catalogue_needs_no_heavy_library():
    code = (
        "import sys, moesim.model as m; m.load_model('DeepSeek-V3');"
        "print([x for x in ('numpy','pandas','torch','networkx','simpy','matplotlib') if x in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert result.stdout.strip() == "[]"


def test_page_of_models_is_fresh():
    written = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    assert written == page(), "run python -m moesim.model.document docs/models.md"


def test_page_lists_every_model_and_exception():
    text = page()
    for name in model_names():
        assert f"| {name} |" in text
        if load_model(name).reported.exception:
            assert f"* {name}, total: " in text
