"""What a scenario names is made, and what does not fit is said at the scenario's lines."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from moesim.errors import InputError
from moesim.routing import TraceWriter
from moesim.scenario import Scenario, build, load_scenario, loads_scenario

KEYS = {
    "model": "gpt-oss-20b",
    "cluster": "{name: HGX-H200, nodes: 2}",
    "parallelism": "{ep: 8}",
    "routing": "{generator: zipf, exponent: 0.5}",
    "workload": "{tokens_per_device: 64, steps: 2}",
    "policies": "[ep, {name: eplb, placement: {redundant: 8}}]",
}


def text(**changes: str) -> str:
    return "".join(f"{key}: {value}\n" for key, value in (KEYS | changes).items())


def scenario(folder: Path | str = ".", **changes: str) -> Scenario:
    return loads_scenario(text(**changes), folder, file="s.yaml")


def build_everything(made: Scenario) -> None:
    for policy in build.build_policies(made):
        build.build_setup(made, policy)


def record(path: Path, experts: int = 32, top_k: int = 4, layers: int = 24) -> Path:
    writer = TraceWriter(path, model="test", experts=experts, top_k=top_k, layers=range(layers))
    with writer:
        rows = np.arange(64)[:, np.newaxis, np.newaxis] + np.arange(layers)[:, np.newaxis] + np.arange(top_k)
        writer.append((rows % experts).astype(np.int16))
    return path


def test_the_group_is_the_first_devices_of_the_cluster() -> None:
    assert build.build_cluster(scenario()).size == 8
    assert build.build_cluster(scenario(parallelism="{}")).size == 16


def test_a_setup_holds_what_the_scenario_says() -> None:
    made = scenario(
        model="{name: gpt-oss-120b, layers: 3}",
        kernels="eager",
        memory="{replicated_experts: true, reserve: 1 GiB}",
        engine="{detail: events, spans: 2}",
        workload="{tokens_per_device: [1, 2, 3, 4, 5, 6, 7, 8], phase: decode}",
    )
    policy = build.build_policies(made, ["llep"])[0]
    setup = build.build_setup(made, policy)
    assert (setup.model.experts, len(setup.model.layers), setup.kernels.name) == (128, 3, "eager")
    assert (setup.memory.replicated_experts, setup.memory.reserve) == (True, 1 << 30)
    assert (setup.detail, setup.span_steps, setup.workload.phase) == ("events", 2, "decode")
    assert setup.tokens.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert setup.policy.name == "llep"


def test_policies_come_from_the_scenario_or_from_presets() -> None:
    made = scenario(policies="[ep, {name: mine, placement: {kind: eplb, redundant: 8}, dispatch: llep}]")
    mine, preset = build.build_policies(made, ["mine", "llep"])
    assert (mine.placement.name, mine.placement.parameters.redundant, mine.dispatch.name) == (
        "eplb",
        8,
        "llep",
    )
    assert (preset.placement.name, preset.dispatch.name) == ("contiguous", "llep")
    assert [policy.name for policy in build.build_policies(made)] == ["ep", "mine"]
    with pytest.raises(InputError, match="no policy named 'mne'"):
        build.build_policies(made, ["mne"])


def test_a_preset_fills_in_what_its_policy_leaves_out() -> None:
    made = scenario(policies="[{name: llep, placement: eplb}, {name: llep2, dispatch: {kind: llep, m: 4}}]")
    first, second = build.build_policies(made)
    assert (first.placement.name, first.dispatch.name) == ("eplb", "llep")
    assert (second.placement.name, second.dispatch.parameters.min_tokens_per_gemm) == ("contiguous", 4)


def test_the_seed_reaches_the_generator() -> None:
    def counts(seed: int) -> list[int]:
        made = loads_scenario(text(), seed=seed)
        source = build.build_source(made, build.build_model(made))
        return [int(n) for n in source.load(0, np.full(8, 64)).per_expert[0]]

    assert counts(1) == counts(1)
    assert counts(1) != counts(2)


@pytest.mark.parametrize(
    ("changes", "where", "fragment"),
    [
        ({"model": "gpt-oss-20"}, "1:8", "no model named 'gpt-oss-20' (did you mean 'gpt-oss-20b'?)"),
        ({"model": "{name: gpt-oss-20b, layers: 25}"}, "1:36", "cannot keep 25 layers"),
        ({"model": "{name: gpt-oss-20b, weight_dtype: fp9}"}, "1:42", "did you mean 'fp8'?"),
        ({"model": "{config: gone.json}"}, "1:17", "config.json cannot be used"),
        ({"model": "{name: DeepSeek-V3, layers: 2}"}, "1:", "first layer with experts"),
        ({"cluster": "HGX-H20O"}, "2:10", "did you mean"),
        ({"cluster": "{name: HGX-H200, nodes: 65536}"}, "2:34", "at most 65536"),
        (
            {"parallelism": "{ep: 3}"},
            "3:19",
            "does not divide the cluster's 16 devices (one of 1, 2, 4, 8, 16)",
        ),
        ({"parallelism": "{ep: 32}"}, "3:19", "does not divide the cluster's 16 devices"),
        (
            {"cluster": "{name: HGX-H200, nodes: 3}", "parallelism": "{ep: 24}"},
            "3:19",
            "spread 32 experts evenly",
        ),
        ({"cluster": "{name: HGX-H200, nodes: 600}", "parallelism": "{}"}, "2:34", "beyond the 4096"),
        ({"routing": "{generator: zpf}"}, "4:22", "did you mean 'zipf'?"),
        ({"routing": "{generator: zipf, exponnt: 1}"}, "4:28", "did you mean 'exponent'?"),
        ({"routing": "{generator: zipf, exponent: -1}"}, "4:38", "greater than or equal to 0"),
        ({"routing": "{generator: zipf, experts: 4}"}, "4:28", "comes from the rest of the scenario"),
        ({"routing": "{trace: gone}"}, "4:18", "there is no trace 'gone'"),
        ({"workload": "{tokens_per_device: [1, 2]}"}, "5:31", "lists 2 numbers for 8 devices"),
        ({"policies": "[epp]"}, "6:12", "no policy named 'epp' (did you mean 'ep'?)"),
        ({"policies": "[{name: x, placement: epbl}]"}, "6:33", "did you mean 'eplb'?"),
        ({"policies": "[{name: eplb, placement: {redundnt: 1}}]"}, "6:37", "did you mean 'redundant'?"),
        ({"policies": "[{name: eplb, placement: {redundant: -1}}]"}, "6:48", "'redundant' is -1"),
        ({"policies": "[{name: eplb, placement: {redundant: 100000}}]"}, "6:48", "memory holds"),
        ({"kernels": "fast"}, "7:10", "no kernel style named 'fast'"),
        ({"kernels": "{base: eager, layer_opps: 1}"}, "7:24", "did you mean 'layer_ops'?"),
        ({"kernels": "{layer_ops: -1}"}, "7:22", "from 0 to 1e6"),
    ],
)
def test_what_does_not_fit_is_said_in_place(changes: dict[str, str], where: str, fragment: str) -> None:
    with pytest.raises(InputError) as caught:
        build_everything(scenario(**changes))
    assert str(caught.value).startswith(f"s.yaml:{where}")
    assert fragment in str(caught.value)


MODEL = """\
model:
  hidden_size: 1024
  num_layers: 2
  num_routed_experts: 8
  moe_intermediate_size: 512
  top_k: {top_k}
  attention: {{kind: gqa, heads: {heads}, kv_heads: 2, head_dim: 64}}
"""


def with_model(top_k: object = 2, heads: object = 4) -> str:
    return MODEL.format(top_k=top_k, heads=heads) + "".join(text().splitlines(keepends=True)[1:])


def test_an_inline_model_is_built() -> None:
    model = build.build_model(loads_scenario(with_model()))
    assert (model.experts, model.top_k, model.name) == (8, 2, "inline")


@pytest.mark.parametrize(
    ("wrong", "line", "column", "fragment"),
    [
        (with_model(top_k=9), 6, 10, "above the number of experts"),
        (with_model(heads=-4), 7, 33, "'attention.heads'"),
        (with_model().replace("top_k", "topk"), 6, 3, "did you mean 'top_k'?"),
        (with_model().replace("  num_layers: 2\n", ""), 1, 1, "'num_layers' is missing"),
    ],
)
def test_errors_of_an_inline_model_are_placed(wrong: str, line: int, column: int, fragment: str) -> None:
    with pytest.raises(InputError) as caught:
        build_everything(loads_scenario(wrong))
    assert fragment in str(caught.value)
    assert (caught.value.line, caught.value.column) == (line, column)


@pytest.mark.parametrize(
    ("cluster", "column", "fragment"),
    [
        ("{device: H100-SXX}", 19, "no device named 'H100-SXX'"),
        ("{device: H100-SXM, intra: {bandwith: 1 GB/s}}", 37, "did you mean 'bandwidth'?"),
        ("{device: H100-SXM, intra: {bandwidth: 1 GB}}", 48, "unknown unit 'GB'"),
        ("{device: H100-SXM, devices_per_node: 0}", 47, "from 1 to"),
        ("{devices_per_node: 8}", 10, "needs 'device'"),
    ],
)
def test_errors_of_an_inline_cluster_are_placed(cluster: str, column: int, fragment: str) -> None:
    with pytest.raises(InputError) as caught:
        build_everything(scenario(cluster=cluster))
    assert fragment in str(caught.value)
    assert (caught.value.line, caught.value.column) == (2, column)


def test_a_trace_counts_from_the_scenario_file(tmp_path: Path) -> None:
    record(tmp_path / "traces" / "one")
    (tmp_path / "scenarios").mkdir()
    path = tmp_path / "scenarios" / "s.yaml"
    path.write_text(text(routing="{trace: ../traces/one}"))
    made = load_scenario(path)
    assert build.build_source(made, build.build_model(made)).layers == 24


@pytest.mark.parametrize(
    ("shape", "fragment"),
    [
        ({"experts": 16}, "has 16 routed experts per layer, 'gpt-oss-20b' has 32"),
        ({"top_k": 2}, "has 2 experts per token, 'gpt-oss-20b' has 4"),
        ({"layers": 6}, "has 6 MoE layers, 'gpt-oss-20b' has 24 (set routing.layers: cycle)"),
    ],
)
def test_a_trace_that_does_not_fit_the_model_is_refused(
    shape: dict[str, int], fragment: str, tmp_path: Path
) -> None:
    record(tmp_path / "one", **shape)
    with pytest.raises(InputError) as caught:
        build_everything(scenario(tmp_path, routing="{trace: one}"))
    assert fragment in str(caught.value)
    assert str(caught.value).startswith("s.yaml:4:18: the trace does not fit the model")


def test_a_shorter_trace_can_be_repeated_over_the_layers(tmp_path: Path) -> None:
    record(tmp_path / "one", layers=6)
    made = scenario(tmp_path, routing="{trace: one, layers: cycle}")
    assert build.build_source(made, build.build_model(made)).layers == 24


@pytest.mark.parametrize("content", ["{}", "not json", json.dumps({"format": "other"})])
def test_a_damaged_trace_is_refused_in_place(content: str, tmp_path: Path) -> None:
    record(tmp_path / "one")
    for manifest in (tmp_path / "one").glob("*.json"):
        manifest.write_text(content)
    with pytest.raises(InputError, match="the trace cannot be used") as caught:
        build_everything(scenario(tmp_path, routing="{trace: one}"))
    assert (caught.value.line, caught.value.column) == (4, 18)


@pytest.mark.parametrize(
    ("experts", "layers", "fragment"),
    [(32768, 9, "routing to 32768 experts; the limit is 4 GiB"), (8, 20, "all pairs; the limit is 16 GiB")],
)
def test_steps_that_would_not_fit_into_memory_are_refused(experts: int, layers: int, fragment: str) -> None:
    model = MODEL.format(top_k=2, heads=4).replace("experts: 8", f"experts: {experts}")
    rest = text(cluster="{name: HGX-H200, nodes: 512}", parallelism="{}").splitlines(keepends=True)[1:]
    with pytest.raises(InputError, match=fragment):
        build_everything(loads_scenario(model.replace("layers: 2", f"layers: {layers}") + "".join(rest)))
