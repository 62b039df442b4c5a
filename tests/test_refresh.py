"""Placements that follow the loads: what a refresh repairs, and what it costs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from moesim.causes import CAUSES
from moesim.engine import Setup, run
from moesim.engine.migration import updates
from moesim.engine.refresher import _parts
from moesim.engine.step import StepRunner
from moesim.engine.tables import tables
from moesim.errors import InputError
from moesim.hardware import cluster_from_mapping
from moesim.hardware.kernels import kernel_style
from moesim.model import model_from_mapping
from moesim.policies import create_policy
from moesim.policies.base import Policy
from moesim.policies.placement.blocks import NoParameters
from moesim.policies.placement.eplb_online import EplbOnline, EplbOnlineParameters
from moesim.policies.placement.eplb_policy import Eplb, EplbParameters
from moesim.policies.placement.flexmoe import FlexMoe
from moesim.policies.plan import Placement
from moesim.policies.refresh import Refresh
from moesim.routing.affinity import Affinity
from moesim.routing.generators import create_generator
from moesim.routing.load import Load
from moesim.workload import Workload

EXPERTS, LAYERS, DEVICES = 16, 3, 8
CLUSTER = {
    "device": "H100-SXM",
    "devices_per_node": 4,
    "nodes": 2,
    "intra": {"kind": "nvlink", "bandwidth": "450 GB/s", "latency": "1 us"},
    "inter": {"bandwidth": "400 Gb/s", "latency": "3 us"},
    "collective_latency": "10 us",
}


@dataclass(frozen=True)
class Drifting:
    """Routing whose popular experts change every few steps; the past is that of the first ones."""

    lasts: int = 4
    skew: float = 1.2
    name: str = "drifting"
    experts: int = EXPERTS
    top_k: int = 2
    layers: int = LAYERS

    def _of(self, phase: int):
        numbers = {"experts": self.experts, "top_k": self.top_k, "layers": self.layers}
        return create_generator("zipf", **numbers, seed=phase, exponent=self.skew)

    def load(self, step: int, tokens: np.ndarray) -> Load:
        return self._of(step // self.lasts).load(step, tokens)

    def profile(self) -> np.ndarray:
        return self._of(0).profile()

    def windows(self, count: int) -> np.ndarray:
        return self._of(0).windows(count)

    def affinity(self) -> Affinity:
        return self._of(0).affinity()

    def steps_available(self, tokens_per_step: int) -> int | None:
        return None


def make(refresh: dict[str, Any] | None, *, steps: int = 12, **changed: Any) -> Setup:
    model = model_from_mapping(
        {
            "num_layers": LAYERS,
            "hidden_size": 1024,
            "moe_intermediate_size": 512,
            "num_routed_experts": EXPERTS,
            "top_k": 2,
            "vocab_size": 1000,
            "attention": {"kind": "gqa", "heads": 8, "kv_heads": 2, "head_dim": 128},
        }
    )
    policy = {"name": "eplb", "placement": {"kind": "eplb", "redundant": 8}, "refresh": refresh}
    made = Setup(
        model=model,
        cluster=cluster_from_mapping(CLUSTER),
        routing=Drifting(),
        workload=Workload("prefill", steps, 2048, 128),
        policy=create_policy(policy),
        kernels=kernel_style("fused"),
    )
    return replace(made, **changed)


def placements(setup: Setup) -> list[Placement]:
    """Return the placement in force in each step."""
    runner, found = StepRunner(setup), []
    for step in range(setup.workload.steps):
        runner.run(step)
        found.append(runner.setup.rank_placement)
    return found


def results(setup: Setup) -> dict[str, Any]:
    return tables(run(setup))


def test_a_refresh_repairs_what_drift_costs_a_placement() -> None:
    still = results(make(None))["steps"]
    fresh = results(make({"every": 2, "window": 2}))["steps"]
    # Routing drifts in steps 4 and 8; the refreshes of steps 6 and 10 have seen it.
    drifted, repaired = [4, 5, 8, 9], [6, 7, 10, 11]
    assert (still["imbalance"][4:] > 2.5).all()
    assert (fresh["imbalance"][drifted] > 2.4).all()
    assert (fresh["imbalance"][repaired] < 1.05).all()
    assert fresh["wait_s"][repaired].sum() < 0.05 * still["wait_s"][repaired].sum()
    assert fresh["latency_s"][repaired].sum() < 0.7 * still["latency_s"][repaired].sum()
    assert fresh["latency_s"].sum() < still["latency_s"].sum()


@pytest.mark.parametrize("mode", ["blocking", "background"])
@pytest.mark.parametrize("limits", [{}, {"layers_per_step": 1}, {"moves_per_step": 1}])
def test_migrated_bytes_are_those_that_devices_lacked(mode, limits) -> None:
    setup = make({"every": 15, "mode": mode, **limits}, steps=26)
    seen = placements(setup)
    steps = results(setup)["steps"]
    first, last = seen[0], seen[-1]
    moves = updates(first, last, setup.cluster.node_of)
    size = setup.expert_bytes[0, 0]
    assert (setup.expert_bytes == size).all()
    assert steps["migrated_bytes"].sum() == size * (moves.source != moves.target).sum() > 0


def test_every_link_carries_the_migration_beside_the_tokens() -> None:
    refresh = {"every": 6, "mode": "background"}
    setup = make(refresh, steps=7)
    still, fresh = results(make(None, steps=7)), results(setup)
    extra = fresh["links"]["bytes"] - still["links"]["bytes"]
    moves = updates(setup.rank_placement, _target(setup), setup.cluster.node_of)
    network = setup.cluster.network
    wanted = np.zeros(len(extra))
    for expert, source, target in zip(moves.expert, moves.source, moves.target, strict=True):
        if source != target:
            wanted[list(network.path(int(source), int(target)))] += setup.expert_bytes[0, expert]
    np.testing.assert_allclose(extra, wanted, atol=1.0)


def _target(setup: Setup) -> Placement:
    """Return what the policy places at the first refresh."""
    tokens = setup.tokens
    window = setup.policy.refresh.window or setup.policy.refresh.every
    steps = range(max(0, setup.policy.refresh.every - window), setup.policy.refresh.every)
    seen = sum(setup.routing.load(step, tokens).per_expert for step in steps)
    return setup.policy.placement.place(seen, setup.view)


def test_the_policy_sees_the_loads_of_the_window_and_the_placement_in_force() -> None:
    seen = []

    class Spy:
        name, summary, source = "spy", "", ""
        parameters_type, parameters = NoParameters, NoParameters()

        def place(self, statistics, view):
            seen.append((statistics, view.past))
            return setup.policy.placement.place(statistics, view)

    setup = make({"every": 5, "window": 3}, steps=6)
    spied = replace(setup, policy=replace(setup.policy, placement=Spy()))
    in_force = placements(spied)
    (_, before), (statistics, past) = seen
    assert before.previous is None
    assert past.previous is in_force[0]
    loads = np.stack([setup.routing.load(step, setup.tokens).per_expert for step in (2, 3, 4)])
    assert (past.windows(3) == loads).all()
    assert (statistics == loads.sum(axis=0)).all()
    assert (past.windows(1)[0] == statistics).all()
    assert past.together.shape == (LAYERS, EXPERTS, EXPERTS)


def test_the_past_is_cut_into_equal_parts_of_whole_copies() -> None:
    seen = np.asarray([[[4, 1]], [[6, 3]], [[8, 5]]])
    windows = _parts(seen)
    assert windows(3).tolist() == seen.tolist()
    assert windows(2).tolist() == [[[7, 2]], [[11, 7]]]
    assert windows(6).sum(axis=0).tolist() == [[18, 9]]
    assert windows(6)[:2].sum(axis=0).tolist() == [[4, 1]]


def test_a_blocking_refresh_charges_its_step_and_no_other() -> None:
    still, fresh = results(make(None, steps=7)), results(make({"every": 6}, steps=7))
    migration = fresh["steps"]["migration_s"]
    assert (migration[:6] == 0).all()
    assert migration[6] > 0
    assert (fresh["steps"]["latency_s"][:6] == still["steps"]["latency_s"][:6]).all()
    causes = fresh["steps"][[f"{cause}_s" for cause in CAUSES]].sum(axis=1)
    np.testing.assert_allclose(causes, fresh["steps"]["latency_s"], rtol=1e-12)
    chain = fresh["critical_path"].query("cause == 'migration'")
    assert set(chain["step"]) == {6}
    assert chain["seconds"].sum() == pytest.approx(migration[6])


def test_layers_that_migrate_one_by_one_take_as_long_as_together() -> None:
    at_once, spread = (
        results(make({"every": 6, **limits}, steps=10))["steps"] for limits in ({}, {"layers_per_step": 1})
    )
    assert (spread["migration_s"][6:9] > 0).all()
    assert spread["migration_s"].sum() == pytest.approx(at_once["migration_s"].sum(), rel=1e-12)
    assert spread["migrated_bytes"].sum() == at_once["migrated_bytes"].sum()


def test_a_refresh_in_the_background_costs_no_time_and_counts_once_it_has_arrived() -> None:
    setup = make({"every": 6, "mode": "background"}, steps=9)
    still, fresh = results(make(None, steps=9))["steps"], results(setup)["steps"]
    assert (fresh["migration_s"] == 0).all()
    assert (fresh["latency_s"][:7] == still["latency_s"][:7]).all()
    assert fresh["migrated_bytes"][6] > 0
    seen = placements(setup)
    assert seen[6] is seen[0]
    assert seen[7] is not seen[0]


def test_slow_links_keep_a_migration_in_the_background_for_several_steps() -> None:
    slow = {**CLUSTER, "intra": {**CLUSTER["intra"], "bandwidth": "2 GB/s"}}
    changed = {"cluster": cluster_from_mapping(slow), "workload": Workload("prefill", 40, 8, 8)}
    blocking = results(make({"every": 6}, **changed))["steps"]
    setup = make({"every": 6, "mode": "background"}, **changed)
    seen = placements(setup)
    lands = next(step for step, one in enumerate(seen) if one is not seen[0])
    latency = results(setup)["steps"]["latency_s"]
    assert lands > 8
    takes = blocking["migration_s"][6]
    assert latency[6:lands].sum() >= takes > latency[6 : lands - 1].sum()


def test_a_refresh_that_is_due_while_another_is_under_way_is_left_out() -> None:
    setup = make({"every": 2, "layers_per_step": 1}, steps=8, routing=Drifting(lasts=1))
    bytes_moved = results(setup)["steps"]["migrated_bytes"].to_numpy()
    assert (bytes_moved[2:5] > 0).all()  # three layers, one by one, past the refresh due in step 4
    assert bytes_moved[5] == 0
    assert bytes_moved[6] > 0


def test_a_refresh_that_never_comes_due_changes_nothing() -> None:
    still, fresh = results(make(None)), results(make({"every": 100}))
    for name, table in still.items():
        assert table.equals(fresh[name]), name


def test_equal_loads_move_nothing() -> None:
    counts = [list(range(1, EXPERTS + 1))]
    routing = create_generator("counts", experts=EXPERTS, top_k=2, layers=LAYERS, seed=0, counts=counts)
    setup = make({"every": 2}, routing=routing, steps=5)
    found = results(setup)
    # The profile has the same totals in proportion; rounding may tell experts apart once, not again.
    assert (found["steps"]["migrated_bytes"][3:] == 0).all()


@pytest.mark.parametrize("mode", ["blocking", "background"])
@pytest.mark.parametrize("overlap", ["none", "two_batch", "dualpipe"])
def test_levels_of_detail_agree(mode, overlap) -> None:
    from moesim.engine.overlap import Overlap

    refresh = {"every": 3, "mode": mode, "moves_per_step": 2}
    made = {"steps": 8, "overlap": Overlap(overlap), "span_steps": 5}
    array = results(make(refresh, **made))
    events = results(make(refresh, **made, detail="events"))
    for name in ("steps", "layers", "devices", "memory", "links", "spans", "critical_path"):
        one, other = array[name], events[name]
        assert one.shape == other.shape
        for column in one.select_dtypes("float").columns:
            np.testing.assert_allclose(one[column], other[column], rtol=1e-9, atol=1e-14)
    moved = array["spans"].query("cause == 'migration'")
    assert moved.empty == (mode == "background")


def test_spans_of_a_step_begin_with_its_migration() -> None:
    found = results(make({"every": 2}, steps=3, span_steps=3))
    spans, steps = found["spans"], found["steps"]
    mine = spans.query("step == 2 and device == 5")
    moved = mine.query("cause == 'migration'")
    begin = steps["latency_s"][:2].sum()
    assert moved["start_s"].min() == pytest.approx(begin)
    assert moved["end_s"].max() == pytest.approx(begin + steps["migration_s"][2])
    assert mine.query("cause == 'attention'")["start_s"].min() == pytest.approx(moved["end_s"].max())
    assert mine["end_s"].max() == pytest.approx(begin + steps["latency_s"][2])


def test_old_and_new_slots_stand_together_while_weights_move() -> None:
    still = make(None, steps=7, workload=Workload("prefill", 7, 8, 8))
    setup = make({"every": 6, "mode": "background"}, steps=7, workload=Workload("prefill", 7, 8, 8))
    moves = updates(setup.rank_placement, _target(setup), setup.cluster.node_of)
    beside = np.bincount(moves.target, minlength=DEVICES) * setup.expert_bytes[0, 0]
    peaks = {}
    for name, one in (("still", still), ("fresh", setup)):
        memory = results(one)["memory"]
        peaks[name] = memory.groupby("device")["peak_bytes"].first().to_numpy()
        owners = memory.pivot_table(index="device", columns="owner", values="bytes")
        assert (owners.sum(axis=1).to_numpy() == peaks[name]).all()
    # Buffers of eight tokens are small against an expert.
    assert (owners["migrating experts"].to_numpy() == beside).all()
    np.testing.assert_allclose(peaks["fresh"] - peaks["still"], beside, atol=2e5)


def test_a_blocking_migration_peaks_before_its_step_and_leaves_nothing_behind() -> None:
    workload = Workload("prefill", 7, 8, 8)
    setup = make({"every": 6}, workload=workload)
    recording = run(setup)
    memory = tables(recording)["memory"]
    fullest = memory[memory["owner"] == "migrating experts"]
    hit = fullest["bytes"] > 0
    assert (fullest["stage"][hit] == "migration").all()
    assert (fullest["step"][hit] == 6).all()
    bare = make({"every": 6, "layers_per_step": 1}, workload=workload)
    spread = tables(run(bare))["memory"].query("owner == 'migrating experts'")
    assert spread["bytes"].sum() < fullest["bytes"].sum()


def test_tensor_parallel_experts_migrate_by_shares() -> None:
    from moesim.engine.parallel import Parallelism
    from moesim.model.sharded import sharded

    whole = make(None)
    setup = make(
        {"every": 6},
        model=sharded(whole.model, 1, 2),
        parallel=Parallelism(1, 2),
        steps=7,
        policy=create_policy({"name": "eplb", "placement": {"kind": "eplb"}, "refresh": {"every": 6}}),
    )
    seen = placements(setup)
    moves = updates(seen[0], seen[6], setup.cluster.node_of[::2])
    lacked = (moves.source != moves.target).sum()
    assert results(setup)["steps"]["migrated_bytes"].sum() == lacked * 2 * setup.expert_bytes[0, 0] > 0


def test_weights_may_come_from_host_memory() -> None:
    from moesim.hardware import load_cluster

    cluster = load_cluster("DGX-H100")
    peers, host = (
        results(make({"every": 6, "source": source}, steps=7, cluster=cluster))
        for source in ("devices", "host")
    )
    assert peers["steps"]["migrated_bytes"].sum() == host["steps"]["migrated_bytes"].sum() > 0
    assert host["steps"]["migration_s"].sum() > peers["steps"]["migration_s"].sum()
    with pytest.raises(InputError, match="has none"):
        run(make({"every": 6, "source": "host"}, steps=7))


def test_a_policy_that_answers_for_other_devices_is_refused() -> None:
    class Forgetful:
        name, summary, source = "forgetful", "", ""
        parameters_type, parameters = NoParameters, NoParameters()

        def place(self, statistics, view):
            placed = setup.policy.placement.place(statistics, view)
            return placed if view.past.previous is None else Placement(placed.slots[:1], EXPERTS)

    setup = make({"every": 1}, steps=2)
    policy = Policy("mine", Forgetful(), setup.policy.dispatch, Refresh(every=1))
    with pytest.raises(InputError, match="'forgetful' places 16 experts in 1 layers"):
        run(replace(setup, policy=policy))


@pytest.mark.parametrize(
    ("placement", "cheaper"),
    [(Eplb(EplbParameters(redundant=8, keep_slots=True)), True), (EplbOnline(), True), (FlexMoe(), False)],
)
def test_policies_that_start_from_what_is_there_migrate_no_longer_than_eplb(placement, cheaper) -> None:
    plain = make({"every": 2, "window": 2})
    other = replace(plain, policy=replace(plain.policy, placement=placement))
    one, two = (results(setup)["steps"] for setup in (plain, other))
    assert two["migration_s"].sum() < one["migration_s"].sum()
    assert two["migrated_bytes"].sum() <= one["migrated_bytes"].sum()
    if cheaper:
        assert (two["imbalance"][[6, 7, 10, 11]] < 1.05).all()


def test_a_budget_of_the_policy_holds_in_every_refresh() -> None:
    plain = make({"every": 1, "window": 1})
    limited = replace(plain.policy, placement=EplbOnline(EplbOnlineParameters(updates=2)))
    setup = replace(plain, policy=limited)
    seen = placements(setup)
    for before, after in pairwise(seen):
        assert ((before.slots != after.slots).sum(axis=(0, 2)) <= 2).all()
    steps = results(setup)["steps"]
    assert steps["imbalance"][7] < steps["imbalance"][4]
