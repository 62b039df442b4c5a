"""Rules between sections of a scenario: each one function, each pointing at the key to change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from moesim.scenario.locate import located
from moesim.scenario.scenario import Scenario
from moesim.units import format_bytes

if TYPE_CHECKING:
    from moesim.engine.setup import Setup
    from moesim.policies.base import ClusterView, Policy

MAX_GROUP: Final = 4096
"""Devices of one expert-parallel group: routes between all pairs of more take minutes to find."""

MAX_COUNTS: Final = 2**29
"""Numbers in the routing counts of one step (8 bytes each)."""

MAX_FLOWS: Final = 2**28
"""Pairs of devices times layers of one step; a run was measured to take about 64 bytes for each."""


def check_group(scenario: Scenario, devices: int) -> None:
    """Check that the expert-parallel group divides the cluster's devices and can be simulated.

    Raises:
        InputError: at ``parallelism.ep``, or at ``cluster``.
    """
    given = scenario.spec.parallelism.ep
    if given is not None and devices % given:
        fitting = [str(n) for n in range(1, devices + 1) if devices % n == 0 and n <= MAX_GROUP]
        message = f"'parallelism.ep' is {given}, which does not divide the cluster's {devices} devices"
        raise scenario.error(("parallelism", "ep"), message, f"one of {', '.join(fitting[-8:])}")
    if (given or devices) > MAX_GROUP:
        message = f"an expert-parallel group of {given or devices} devices is beyond the {MAX_GROUP} that fit"
        path = ("cluster", "nodes") if given is None else ("parallelism", "ep")
        raise scenario.error(path, message, "set parallelism.ep to simulate a part of the cluster")


def check_tokens(scenario: Scenario, devices: int) -> None:
    """Check that a list of tokens has one number for each device.

    Raises:
        InputError: at ``workload.tokens_per_device``.
    """
    given = scenario.workload.tokens_per_device
    if isinstance(given, tuple) and len(given) != devices:
        message = f"'workload.tokens_per_device' lists {len(given)} numbers for {devices} devices"
        raise scenario.error(("workload", "tokens_per_device"), message, "give one number, or one per device")


def check_size(scenario: Scenario, devices: int, experts: int, layers: int) -> None:
    """Check that the counts and the traffic of a step fit into memory.

    Raises:
        InputError: at ``cluster``.
    """
    for what, number, limit, size in (
        (f"routing to {experts} experts", devices * experts * layers, MAX_COUNTS, 8),
        ("traffic between all pairs", devices * devices * layers, MAX_FLOWS, 64),
    ):
        if number > limit:
            message = (
                f"a step of {layers} MoE layers on {devices} devices needs {format_bytes(size * number)} "
                f"for the {what}; the limit is {format_bytes(size * limit)}"
            )
            raise scenario.error(("cluster",), message, "simulate fewer devices or layers")


def check_placement(scenario: Scenario, policy: Policy, view: ClusterView) -> None:
    """Check that a policy can place the experts, and evenly where an expert-parallel degree is asked for.

    Tried on one layer of equal loads.

    Raises:
        InputError: at the policy, or at ``parallelism.ep``.
    """
    import numpy as np

    path = (
        ("policies", scenario.policy_names.index(policy.name)) if policy.name in scenario.policy_names else ()
    )
    with located(scenario, (*path, "placement") if path else ("policies",)):
        placement = policy.placement.place(np.ones((1, view.experts), dtype=np.int64), view)
    asked = scenario.spec.parallelism.ep
    slots = placement.experts_per_device
    if asked is not None and int(slots.min()) != int(slots.max()):
        message = (
            f"'parallelism.ep' is {asked}, on which policy '{policy.name}' cannot spread "
            f"{view.experts} experts evenly"
        )
        hint = f"{-view.experts % asked} redundant experts would even it out: placement eplb, redundant"
        raise scenario.error(("parallelism", "ep"), message, hint)


def check_offload(scenario: Scenario, setup: Setup) -> None:
    """Check that a policy that offloads can begin, and that only such a policy is given requests.

    Raises:
        InputError: at the policy's ``offload``, at ``routing``, or at ``workload``.
    """
    policy = setup.policy
    known = policy.name in scenario.policy_names
    index = scenario.policy_names.index(policy.name) if known else 0
    if policy.offload is None:
        if setup.workload.requests is not None:
            message = (
                f"policy '{policy.name}' keeps all experts on the devices and runs equal steps, not requests"
            )
            path = ("workload", "requests")
            raise scenario.error(path, message, "choose policies that offload, such as on_demand or hobbit")
        return
    from moesim.engine.offload.loader import Loader
    from moesim.engine.offload.sizes import GLANCED, sizes_of
    from moesim.policies.prefetch.base import PrefetchFrame
    from moesim.routing.requests import token_source

    tokens = setup.tokens
    if int(tokens.min()) != int(tokens.max()) or int(tokens.min()) < 1:
        message = "offloading serves as many sequences on each device, at least one"
        raise scenario.error(("workload", "tokens_per_device"), message, "give one number")
    with located(scenario, ("routing",)):
        source = token_source(setup.routing)
    place: tuple[str | int, ...] = ("policies", index) if known else ("policies",)
    if known and scenario.spec.policies[index].offload is not None:
        place = (*place, "offload")
    with located(scenario, place):
        sizes = sizes_of(setup, policy.offload, source, GLANCED)
        Loader(setup.cluster, sizes.store, policy.offload.settings.pinned, sizes.chunk)
        frame = sizes.frames[0]
        if not policy.offload.cache.oracle:
            policy.offload.cache.start(frame)
        shape = (frame.layers, frame.experts, frame.top_k)
        past = (sizes.profile, sizes.profile_sequence)
        policy.offload.prefetch.start(PrefetchFrame(*shape, *past, int(setup.seed)))
