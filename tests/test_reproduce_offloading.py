"""Published figures of offloading systems: what is claimed of them, and which misses are known."""

from __future__ import annotations

import json
import re
from functools import cache

import pytest
from click.testing import CliRunner

from moesim.cli import main
from moesim.experiment import simulate
from moesim.papers import load_paper
from moesim.papers.paper import Figure
from moesim.papers.roofline import ROOFLINE
from moesim.scenario import loads_scenario

PAPERS = (
    "edgemoe",
    "expertflow",
    "fiddler",
    "hobbit",
    "hybrimoe",
    "local-routing",
    "mixtral-offloading",
    "moe-infinity",
    "moe-lightning",
    "promoe",
)


@cache
def rows(paper):
    result = CliRunner().invoke(main, ["reproduce", paper, "--json"])
    assert result.exit_code == 0, result.output
    return tuple(json.loads(result.stdout)["rows"])


def predicted(paper, figure, point=""):
    found = [row for row in rows(paper) if row["figure"] == figure and row["point"].startswith(point)]
    assert found, f"no row of {figure} {point}"
    return found[0]["predicted"]


def errors(paper, start):
    found = [row["relative_error"] for row in rows(paper) if re.match(start, row["figure"])]
    assert found, f"no row of {start}"
    return found


CLAIMS = [
    # Constants and formulas alone.
    ("hobbit", "A layer of Mixtral computed", 0.2),
    ("hybrimoe", "Transfer of an expert", 0.15),
    ("moe-lightning", "Layer of the printed policy", 0.02),
    ("moe-lightning", "Decode rate of the printed policy", 0.02),
    ("moe-lightning", "Gain of the schedule alone", 0.1),
    ("expertflow", "GPU memory saved", 0.02),
    ("expertflow", "Peak memory, all experts on the GPU", 0.1),
    # Stand-in routing.
    ("local-routing", "Hit rate, Mixtral-8x7B", 0.1),
    ("local-routing", "Knee", 0.15),
    ("fiddler", "Hit rate", 0.1),
    ("hobbit", "Shares of precisions, all gates, low", 0.05),
    # Runs.
    ("hobbit", "Loading in the time of a layer", 0.15),
    ("hobbit", "Prefetch alone", 0.05),
    ("hobbit", "Prefetch beside dynamic loading", 0.05),
    ("hobbit", "With the CPU, decode speed-up over Fiddler, Mixtral", 0.05),
    ("moe-infinity", "Time per token, Mixtral-8x7B", 0.15),
    ("mixtral-offloading", "Gain of cache and preload", 0.2),
    ("promoe", "Decode speed-up over LRU$", 0.2),
    ("promoe", "Decode speed-up over the most popular experts$", 0.2),
    ("promoe", "Prefill speed-up over the most popular experts$", 0.05),
    ("expertflow", "Hit rate, Switch-32, 16 experts per layer$", 0.2),
]


@pytest.mark.parametrize(("paper", "start", "most"), CLAIMS)
def test_claimed_points_are_this_close(paper, start, most):
    assert max(map(abs, errors(paper, start))) <= most


# Each is known to miss by at least this much; whoever closes the gap moves the figure to the claims.
KNOWN_MISSES = [
    ("hobbit", "Decode speed-up over MoE-Offloading", -0.4),
    ("hobbit", "Decode speed-up over MoE-Infinity", -0.25),
    ("hobbit", "Prefill latency cut, RTX 4090, Mixtral", -0.7),
    ("hobbit", "Prefill latency cut over MoE-Infinity", -1.0),
    ("hobbit", "A layer of Mixtral over PCIe 4", 0.3),
    ("hybrimoe", "An expert with one token on the CPU", -0.9),
    ("hybrimoe", "Ablation, decode of Qwen2 without HybriMoE", -0.3),
    ("hybrimoe", "Hit rate of MRS less", -0.7),
    ("edgemoe", "Ablation", -0.7),
    ("mixtral-offloading", "Decode rate", 1.2),
    ("moe-infinity", "Time per token, DeepSeek-V2-Lite", -0.25),
    ("moe-infinity", "Speed-up over Mixtral-offloading", -0.25),
    ("moe-lightning", "Throughput", 5.0),
    ("promoe", "Waiting for weights under LRU, half of the experts, prefill$", -0.8),
    ("promoe", "Decode speed-up over the most popular experts, hardware alone", -0.3),
    ("promoe", "Prefill speed-up over LRU", -0.5),
    ("expertflow", "Throughput over Cache-MoE", -0.4),
]


@pytest.mark.parametrize(("paper", "start", "least"), KNOWN_MISSES)
def test_known_misses_stay_known(paper, start, least):
    for error in errors(paper, start):
        assert error / least >= 1, error


@pytest.mark.parametrize("paper", PAPERS)
def test_points_are_marked_and_their_misses_explained(paper):
    assert {row["mark"] for row in rows(paper)} <= {
        "primary",
        "digitised",
        "derived",
        "abstract",
        "secondary",
    }
    described = load_paper(paper)
    assert "fitted" in described.constants
    for row in rows(paper):
        assert row["relative_error"] == pytest.approx(row["predicted"] / row["published"] - 1)
        if abs(row["relative_error"]) > 0.5:
            assert row["note"], row["figure"]


def figures(model):
    return [row for row in rows("local-routing") if row["figure"].endswith(model)][:5]


def test_local_routing_of_deepseek():
    found = {row["point"]: row["relative_error"] for row in figures("DeepSeek-V2-Lite")}
    favourites = found.pop("cache=lfu, rho=2")
    assert max(map(abs, found.values())) <= 0.05
    assert 0.1 < favourites < 0.3
    assert all(predicted("local-routing", row["figure"]) > 1 for row in rows("local-routing")[-2:])


def test_hobbit_gains_where_it_is_said_to():
    shares = [
        predicted("hobbit", f"Shares of precisions, all gates{end}") for end in ("", ", low", ", skipped")
    ]
    assert shares[0] == pytest.approx(0.67, rel=0.05)
    assert sum(shares) == pytest.approx(1)
    misses = [
        predicted("hobbit", f"Shares of precisions, misses of a run{end}")
        for end in ("", ", low", ", skipped")
    ]
    assert sum(misses) == pytest.approx(1)
    assert misses[0] > misses[1] > misses[2] > 0
    assert 1.19 <= predicted("hobbit", "Dynamic loading alone, RTX 4090") <= 1.57
    assert all(row["predicted"] > 1.2 for row in rows("hobbit") if "speed-up over MoE-" in row["figure"])


def test_hybrimoe_needs_the_speed_of_the_real_cpu():
    plain, measured = (
        "Ablation, decode of Qwen2",
        "Ablation, decode of Qwen2, with the CPU of the authors' code",
    )
    for policy in ("scheduling", "hybrimoe"):
        assert predicted("hybrimoe", plain, f"policy={policy}") < 1  # the wrong sign, and known
        assert predicted("hybrimoe", measured, f"policy={policy}") > 1.2
    assert predicted("hybrimoe", measured, "policy=scheduling") == pytest.approx(1.46, rel=0.1)
    lru = [
        row["relative_error"]
        for row in rows("hybrimoe")
        if row["figure"].startswith("Hit rate in") and row["point"].startswith("policy=lru")
    ]
    assert len(lru) == 4
    assert max(map(abs, lru)) <= 0.1


def test_edgemoe_ablation_has_its_order_but_for_preloading():
    fp32 = predicted("edgemoe", "Ablation, on demand", "expert_dtype=fp32")
    int4 = predicted("edgemoe", "Ablation, on demand", "expert_dtype=int4")
    preload = predicted("edgemoe", "Ablation, preloading and buffer", "policy=preload")
    full = predicted("edgemoe", "Ablation, preloading and buffer", "policy=edgemoe")
    assert fp32 > 2 * int4
    assert full < min(int4, preload)
    # Published: 22 % less. There is no computation here behind which a load could hide.
    assert preload == pytest.approx(int4, rel=0.05)
    assert predicted("edgemoe", "Speed-up over loading on demand, slow drive") > predicted(
        "edgemoe", "Speed-up over loading on demand, SSD"
    )


def test_mixtral_offloading_steps_have_their_order():
    for machine in ("A100", "T4"):
        found = [
            predicted("mixtral-offloading", f"Decode rate, {machine}", f"policy={policy}")
            for policy in ("mixtral_offloading", "no_preload", "neither")
        ]
        assert found == sorted(found, reverse=True)


def test_expertflow_finds_more_than_lru():
    figure = "Hit rate of ExpertFlow less that of LRU, Switch-32"
    small, large = (predicted("expertflow", figure, f"tokens_per_device={batch}") for batch in (4, 16))
    assert large == pytest.approx(0.2754, rel=0.1)
    assert 0.1535 < small < large  # in small batches it gains too much, as LRU finds too little
    gains = [
        predicted(
            "expertflow", "Throughput over SE-MoE, 16 experts per layer, batch 32", f"num_routed_experts={n}"
        )
        for n in (32, 64, 128)
    ]
    assert gains == sorted(gains)
    assert gains[0] > 1.3


def test_moe_lightning_batches():
    found = [row for row in rows("moe-lightning") if row["figure"].startswith("Sequences")]
    close = [abs(row["relative_error"]) for row in found if row["point"] != "machine=S1, generated=32"]
    assert len(close) == 7
    assert max(close) <= 0.2


def test_hardware_alone_is_never_slower_per_token():
    assert predicted("moe-infinity", "Time per token, DeepSeek-V2-Lite, hardware alone") < predicted(
        "moe-infinity", "Time per token, DeepSeek-V2-Lite"
    )


def test_roofline_of_a_told_policy_does_not_search():
    given = {"machine": "S2", "prompt": 77, "generated": 32, "micro_batch": 10, "micro_batches": 3}
    assert ROOFLINE["roofline_batch"](given) == 30


def test_an_arguments_axis_is_no_scenario_key():
    figure = load_paper("local-routing").figures[0]
    assert isinstance(figure, Figure)
    assert figure.axes == ("given.cache", "given.rho")
    assert {row["point"] for row in rows("local-routing")[:2]} == {"cache=lru, rho=2", "cache=lfu, rho=2"}


def test_a_run_without_a_prompt_says_that_it_has_none():
    from moesim.errors import InputError
    from moesim.papers.offloading import OF_RUN

    body = load_paper("edgemoe").scenarios["ssd"] | {
        "workload": {"tokens_per_device": 1, "phase": "decode", "steps": 2, "context": 16}
    }
    result = simulate(loads_scenario(json.dumps(body), file="x"), policy="edgemoe")
    assert 0 <= OF_RUN["hit_rate"](result) <= 1
    assert OF_RUN["tpot_ms"](result) > 0
    with pytest.raises(InputError, match="ttft_s"):
        OF_RUN["ttft_s"](result)


def test_the_cpu_may_take_an_expert_that_is_on_its_way():
    """HybriMoE's rule gives the CPU residents, too, and a prefetched expert counts as one."""
    body = load_paper("hybrimoe").scenarios["Mixtral-8x7B"] | {
        "workload": {"tokens_per_device": 1, "requests": {"prompt": 4, "output": 8}},
        "policies": [{"name": "both", "offload": {"system": "hybrimoe", "ratio": 0.25, "prefetch": "gate"}}],
    }
    result = simulate(loads_scenario(json.dumps(body), file="x"), policy="both")
    assert result.offload["late_share"] > 0
    assert result.offload["cpu_share"] > 0
