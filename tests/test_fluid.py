from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.errors import InputError
from moesim.hardware.fluid import Flow, FluidNetwork, LiveFluid


def finish(bandwidth: list[float], *flows: Flow) -> list[float]:
    return FluidNetwork(np.array(bandwidth)).finish_times(flows).tolist()


@st.composite
def situations(draw: st.DrawFn) -> tuple[np.ndarray, list[Flow]]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    links = draw(st.integers(1, 6))
    late, coflows = draw(st.booleans()), draw(st.booleans())
    flows = []
    for _ in range(draw(st.integers(1, 10))):
        start = float(rng.uniform(0, 5)) if late else 0.0
        path = rng.choice(links, int(rng.integers(1, links + 1)), replace=False)
        if coflows and rng.random() < 0.5:
            flows.append(Flow(start, {int(link): float(rng.integers(0, 50)) for link in path}))
        else:
            flows.append(Flow.along(path.tolist(), float(rng.integers(1, 50)), start))
    return rng.integers(1, 20, links).astype(float), flows


def test_one_link_is_shared_equally_and_freed_capacity_is_used() -> None:
    # 2 flows at 5 B/s until 10 B are through at 2 s, then the other has 10 B/s for its last 10 B.
    assert finish([10.0], Flow.along([0], 10), Flow.along([0], 20)) == [2.0, 3.0]


def test_arrivals_slow_down_what_is_under_way() -> None:
    # Alone for 1 s (10 B), then shared: the late one needs 2 s at 5 B/s, leaving 10 B at full rate.
    assert finish([10.0], Flow.along([0], 30), Flow.along([0], 10, 1.0)) == [4.0, 3.0]


def test_a_flow_held_back_elsewhere_leaves_its_share_to_others() -> None:
    # Textbook: link 0 (10 B/s) carries A and B, link 1 (2 B/s) carries B and C: B = C = 1, A = 9.
    live = LiveFluid(np.array([10.0, 2.0]))
    a, b, c = (live.add(Flow.along(path, 100), 0.0) for path in ([0], [0, 1], [1]))
    assert [live.rate(a), live.rate(b), live.rate(c)] == [9.0, 1.0, 1.0]
    assert live.load().tolist() == [10.0, 2.0]
    assert live.refills == 1


def test_parking_lot() -> None:
    # One long flow over three links, one short flow on each: everybody gets half of the tightest, the
    # short flows what is left of their own link.
    live = LiveFluid(np.array([6.0, 8.0, 10.0]))
    flows = [live.add(Flow.along(path, 1), 0.0) for path in ([0, 1, 2], [0], [1], [2])]
    assert [live.rate(flow) for flow in flows] == [3.0, 3.0, 5.0, 7.0]


def test_a_coflow_alone_takes_as_long_as_its_most_loaded_link() -> None:
    amounts = np.array([30.0, 0.0, 8.0, 2.0])
    bandwidth = np.array([10.0, 1.0, 2.0, 7.0])
    assert FluidNetwork(bandwidth).finish_times([Flow(0.0, amounts)]).tolist() == [4.0]


def test_a_coflow_and_a_transfer_share_the_bottleneck_of_both_equally() -> None:
    # The coflow's bottleneck is link 1 (10 B at 1 B/s); its many bytes on the fast link 0 do not matter.
    coflow = Flow(0.0, {0: 100.0, 1: 10.0})
    assert finish([1000.0, 1.0], coflow, Flow.along([1], 10)) == [20.0, 20.0]


def test_nothing_to_move_takes_no_time() -> None:
    flows = Flow.along([], 5, 2.0), Flow.along([0], 0, 3.0), Flow(1.0, np.zeros(1))
    assert finish([1.0], *flows) == [2.0, 3.0, 1.0]
    assert finish([1.0]) == []


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=30), st.integers(1, 10**6))
def test_a_single_bottleneck_is_never_idle(sizes: list[int], bandwidth: int) -> None:
    times = finish([float(bandwidth)], *(Flow.along([0], size) for size in sizes))
    assert max(times) == pytest.approx(sum(sizes) / bandwidth, rel=1e-9)
    assert sorted(range(len(sizes)), key=lambda i: (sizes[i], i)) == sorted(
        range(len(sizes)), key=lambda i: (times[i], sizes[i], i)
    )


@given(situations())
@settings(max_examples=200, deadline=None)
def test_fluid_is_within_capacity_max_min_fair_and_delivers_everything(
    situation: tuple[np.ndarray, list[Flow]],
) -> None:
    bandwidth, flows = situation
    order = sorted(range(len(flows)), key=lambda index: flows[index].start_s)
    live, active, waiting = LiveFluid(bandwidth), {}, [flows[index] for index in order]
    while waiting or len(live):
        upcoming = live.next_completion()
        if waiting and (upcoming is None or waiting[0].start_s <= upcoming[0]):
            flow = waiting.pop(0)
            for _, number in live.advance(flow.start_s):
                del active[number]
            active[live.add(flow, flow.start_s)] = flow
        else:
            for _, number in live.advance(upcoming[0]):
                del active[number]
        load = live.load()
        assert (load <= bandwidth * (1 + 1e-9)).all()
        speeds = {}
        for number, flow in active.items():
            links, amounts = flow.columns()
            if links.size:
                size = amounts[np.argmax(amounts / bandwidth[links])]
                speeds[number] = (live.rate(number), links, live.rate(number) * amounts / size)
        total = np.zeros(bandwidth.size)
        for _, links, at_links in speeds.values():
            total[links] += at_links
        np.testing.assert_allclose(load, total, rtol=1e-9, atol=1e-12)
        # Max-min: everybody crosses a full link on which nobody is faster.
        for rate, links, _ in speeds.values():
            full = [link for link in links if load[link] >= bandwidth[link] * (1 - 1e-9)]
            fastest = [max(r for r, ls, _ in speeds.values() if link in ls) for link in full]
            assert fastest
            assert min(fastest) <= rate * (1 + 1e-9)
    delivered = np.zeros(bandwidth.size)
    for flow in flows:
        links, amounts = flow.columns()
        delivered[links] += amounts
    np.testing.assert_allclose(live.carried, delivered, rtol=1e-9, atol=1e-9)


@given(situations())
@settings(max_examples=100, deadline=None)
def test_doubling_every_bandwidth_halves_every_time(situation: tuple[np.ndarray, list[Flow]]) -> None:
    bandwidth, flows = situation
    sooner = [Flow(flow.start_s / 2, flow.amounts) for flow in flows]
    slow = FluidNetwork(bandwidth).finish_times(flows)
    np.testing.assert_array_equal(FluidNetwork(2 * bandwidth).finish_times(sooner), slow / 2)


@given(situations())
@settings(max_examples=100, deadline=None)
def test_no_flow_is_faster_than_alone_or_slower_than_all_one_after_the_other(
    situation: tuple[np.ndarray, list[Flow]],
) -> None:
    bandwidth, flows = situation
    network = FluidNetwork(bandwidth)
    alone = np.array([network.finish_times([flow])[0] - flow.start_s for flow in flows])
    took = network.finish_times(flows) - [flow.start_s for flow in flows]
    assert (took >= alone * (1 - 1e-9) - 1e-12).all()
    assert (took <= alone.sum() * (1 + 1e-9) + 1e-12).all()


def test_an_event_engine_can_drive_it_and_take_flows_out() -> None:
    live = LiveFluid(np.array([10.0]))
    first, second = live.add(Flow.along([0], 30), 0.0), live.add(Flow.along([0], 30), 0.0)
    assert live.next_completion() == (6.0, first)
    assert live.advance(2.0) == []
    assert live.remove(second, 2.0) == pytest.approx(2 / 3)
    assert live.next_completion() == (4.0, first)
    assert live.advance(5.0) == [(4.0, first)]
    assert live.now == 5.0
    assert live.next_completion() is None
    assert live.carried.tolist() == [40.0]


def test_a_clock_a_rounding_error_early_still_gets_the_completion() -> None:
    live = LiveFluid(np.array([3.0]), now=1000.0)
    number = live.add(Flow.along([0], 1.0), 1000.0)
    due, _ = live.next_completion()
    assert [done for _, done in live.advance(np.nextafter(due, 0.0))] == [number]


def test_time_only_moves_forward() -> None:
    live = LiveFluid(np.array([1.0]), now=5.0)
    with pytest.raises(ValueError, match="cannot go back"):
        live.add(Flow.along([0], 1.0), 4.0)
    with pytest.raises(KeyError, match="no active flow 3"):
        live.remove(3, 5.0)


@pytest.mark.parametrize("amount", [-1.0, float("nan"), float("inf")])
def test_impossible_amounts_are_refused(amount: float) -> None:
    with pytest.raises(InputError, match="finite amounts"):
        finish([1.0], Flow.along([0], amount))


def test_impossible_networks_are_refused() -> None:
    with pytest.raises(InputError, match="finite start"):
        finish([1.0], Flow.along([0], 1.0, float("nan")))
    with pytest.raises(InputError, match=r"outside 0\.\.0"):
        finish([1.0], Flow.along([1], 1.0))
    with pytest.raises(InputError, match="above zero"):
        FluidNetwork(np.array([1.0, 0.0]))
