"""``moesim plan`` against the outputs of the reference implementations, from every kind of file."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from moesim.cli import main

GOLDENS = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "goldens"
needs_goldens = pytest.mark.skipif(not GOLDENS.is_dir(), reason="the shared golden cases are not here")


def plan(*words):
    result = CliRunner().invoke(main, ["plan", *map(str, words)])
    assert result.exit_code == 0, result.output
    return result.stdout


def store(path, counts):
    """Write counts in the format that the suffix names."""
    if path.suffix == ".npy":
        np.save(path, np.asarray(counts))
    elif path.suffix == ".csv":
        rows = np.atleast_2d(counts)
        path.write_text("\n".join(",".join(map(str, row)) for row in rows.tolist()) + "\n")
    else:
        path.write_text(json.dumps(np.asarray(counts).tolist()))
    return path


@needs_goldens
@pytest.mark.parametrize("suffix", [".json", ".csv", ".npy"])
def test_llep_gives_the_golden_assignments(tmp_path, suffix):
    for case in json.loads((GOLDENS / "llep_small.json").read_text())["cases"]:
        given, expected = case["inputs"], case["outputs"]
        found = json.loads(
            plan(
                *("llep", "--loads", store(tmp_path / f"loads{suffix}", given["global_expert_counts"])),
                *("--devices", given["ep_size"], "--json", "--set", "dispatch.threshold=0"),
                *("--set", f"dispatch.alpha={given['max_tokens_factor_alpha']}"),
                *("--set", f"dispatch.min_tokens_per_gemm={given['min_tokens_per_gemm']}"),
            )
        )
        wanted = Counter()
        for expert, slices in expected["assignments"].items():
            for device, start, end in slices:
                wanted[int(expert), device] += end - start
        got = Counter({(row["expert"], row["device"]): row["copies"] for row in found["assignments"]})
        assert +got == +wanted, case["name"]
        moves = {(move["expert"], move["from"], move["to"]) for move in found["weight_moves"]}
        assert moves == {
            (e, source, target)
            for e, source, target, *_ in expected["weight_transfers_expert_src_dst_start_end"]
        }
        assert found["device_copies"] == [expected["gpu_loads"]]


@needs_goldens
@pytest.mark.parametrize("name", ["eplb_readme_hierarchical", "eplb_readme_global"])
def test_eplb_gives_the_golden_placement(tmp_path, name):
    golden = json.loads((GOLDENS / f"{name}.json").read_text())
    given, expected = golden["inputs"], golden["outputs"]
    found = json.loads(
        plan(
            *("eplb", "--loads", store(tmp_path / "loads.json", given["weight"]), "--json"),
            *("--devices", given["num_gpus"], "--nodes", given["num_nodes"], "--groups", given["num_groups"]),
            *("--set", f"placement.mode={golden['policy']}"),
            *("--set", f"placement.redundant={given['num_replicas'] - given['num_logical_experts']}"),
        )
    )
    slots = [[expert for device in layer for expert in device] for layer in found["placement"]]
    assert slots == expected["physical_to_logical"]
    assert found["replicas"] == expected["logical_count"]


@pytest.mark.parametrize("suffix", [".json", ".csv", ".npy"])
def test_ep_keeps_experts_in_blocks(tmp_path, suffix):
    loads = store(tmp_path / f"loads{suffix}", [[8, 0, 0, 0], [1, 2, 3, 4]])
    found = json.loads(plan("ep", "--loads", loads, "--devices", 2, "--json"))
    assert found["placement"] == [[[0, 1], [2, 3]]] * 2
    assert found["device_copies"] == [[8, 0], [3, 7]]
    assert found["imbalance"] == [2.0, 1.4]
    assert found["weight_moves"] == []


def test_sources_are_kept_apart(tmp_path):
    loads = store(tmp_path / "loads.json", [[[5, 1], [0, 2]]])
    found = json.loads(plan("ep", "--loads", loads, "--devices", 2, "--json"))
    assert found["traffic"] == [[[5, 1], [0, 2]]]


def test_the_text_tells_every_device_and_move(tmp_path):
    loads = store(tmp_path / "loads.csv", [300, 20, 40, 40])
    text = plan("llep", "--loads", loads, "--devices", 2, "--set", "dispatch.min_tokens_per_gemm=1")
    assert text.splitlines() == [
        "policy llep; work is written as expert:copies",
        "layer 0: largest over mean load 1.000",
        "  device 0 holds [0,1], computes 200: 0:180 1:20",
        "  device 1 holds [2,3], computes 200: 2:40 3:40 0:120",
        "  weights of expert 0: 0 -> 1",
    ]


def test_nothing_to_do_is_a_plan(tmp_path):
    loads = store(tmp_path / "loads.json", [0, 0])
    found = json.loads(plan("llep", "--loads", loads, "--devices", 2, "--json"))
    assert found["device_copies"] == [[0, 0]]
    assert found["imbalance"] == [1.0]
