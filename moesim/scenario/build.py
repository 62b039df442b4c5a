"""Making what a scenario names: model, cluster, routing, policies."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from moesim.scenario.checks import check_group, check_offload, check_placement, check_size, check_tokens
from moesim.scenario.locate import located
from moesim.scenario.policy import build_policies, build_policy
from moesim.scenario.scenario import Scenario
from moesim.scenario.tokens import GeneratorRouting, TraceRouting
from moesim.scenario.tree import plain
from moesim.scenario.what import CatalogueCluster, CatalogueModel, ConfigModel

if TYPE_CHECKING:
    from moesim.engine.setup import Setup
    from moesim.hardware.calibrations import Calibrations
    from moesim.hardware.cluster import Cluster
    from moesim.model.spec import ModelSpec
    from moesim.policies.base import Policy
    from moesim.routing.source import RoutingSource

__all__ = [
    "build_cluster",
    "build_model",
    "build_policies",
    "build_policy",
    "build_setup",
    "build_source",
    "kernels_spec",
    "with_policy",
]

_FROM_MODEL: Final = ("kind", "experts", "top_k", "layers", "seed")


def build_model(scenario: Scenario) -> ModelSpec:
    """Return the model, cut to the layers and the number format that the scenario asks for.

    Raises:
        InputError: an unknown name, a config.json that cannot be used, or an impossible number.
    """
    from moesim.model import load_model, model_from_config, model_from_mapping

    section = scenario.spec.model
    if isinstance(section, CatalogueModel):
        with located(scenario, ("model", "name")):
            model = load_model(section.name)
    elif isinstance(section, ConfigModel):
        with located(scenario, ("model", "config"), "the config.json cannot be used: "):
            model = model_from_config(scenario.path(section.config))
    else:
        with located(scenario, ("model",)):
            return model_from_mapping(plain(section))
    if section.layers is not None:
        with located(scenario, ("model", "layers")):
            model = model.with_layers(section.layers)
    if section.weight_dtype is not None:
        with located(scenario, ("model", "weight_dtype")):
            model = model.with_dtype(section.weight_dtype)
    if not model.moe_layers:
        raise scenario.error(("model",), f"model '{model.name}' has no MoE layer")
    return model


def build_cluster(scenario: Scenario) -> Cluster:
    """Return the devices of the expert-parallel group.

    Raises:
        InputError: an unknown name, an impossible description, a group that does not divide the devices,
            or a list of tokens with another length than the group.
    """
    from moesim.hardware import cluster_from_mapping, load_cluster

    section = scenario.spec.cluster
    if isinstance(section, CatalogueCluster):
        key = "name" if section.nodes is None else "nodes"
        with located(scenario, ("cluster", key)):
            cluster = load_cluster(section.name, section.nodes)
    else:
        with located(scenario, ("cluster",)):
            cluster = cluster_from_mapping(plain(section))
    check_group(scenario, cluster.size)
    group = cluster.subset(scenario.spec.parallelism.ep or cluster.size)
    check_tokens(scenario, group.size)
    return group


def build_source(scenario: Scenario, model: ModelSpec) -> RoutingSource:
    """Return the routing, checked against the model.

    Raises:
        InputError: a trace that cannot be read or does not fit, an unknown generator or parameter.
    """
    section = scenario.spec.routing
    if isinstance(section, TraceRouting):
        return _trace(scenario, section, model)
    return _generator(scenario, section, model)


def _trace(scenario: Scenario, section: TraceRouting, model: ModelSpec) -> RoutingSource:
    from moesim.routing import RoutingTrace, TraceSource

    path = scenario.path(section.trace)
    at = ("routing", "trace")
    with located(scenario, at):
        exists = path.exists()
    if not exists:
        raise scenario.error(
            at, f"there is no trace '{section.trace}'", "paths count from the scenario's file"
        )
    with located(scenario, at, "the trace cannot be used: "):
        trace = RoutingTrace.open(path)
    layers = len(model.moe_layers)
    for what, have, want in (
        ("routed experts per layer", trace.experts, model.experts),
        ("experts per token", trace.top_k, model.top_k),
        ("MoE layers", len(trace.layers), layers if section.layers == "exact" else len(trace.layers)),
    ):
        if have != want:
            message = f"the trace does not fit the model: it has {have} {what}, '{model.name}' has {want}"
            fix = "set routing.layers: cycle" if what == "MoE layers" else "choose another trace or model"
            raise scenario.error(at, message, fix)
    with located(scenario, ("routing",)):
        return TraceSource(
            trace, layers, section.layers, section.profile, section.assign, section.task, section.phase
        )


def _generator(scenario: Scenario, section: GeneratorRouting, model: ModelSpec) -> RoutingSource:
    from moesim.routing.generators import create_generator

    for key in section.others:
        if key in _FROM_MODEL:
            where = scenario.document.place(("routing", key), key=True)
            raise where.error(f"'routing' has no key '{key}': it comes from the rest of the scenario")
    at = ("routing", "generator") if not section.others else ("routing",)
    with located(scenario, at):
        return create_generator(
            section.generator,
            experts=model.experts,
            top_k=model.top_k,
            layers=len(model.moe_layers),
            seed=scenario.seed,
            **section.others,
        )


def kernels_spec(scenario: Scenario) -> str | dict[str, Any]:
    """Return what ``moesim.hardware.kernels.kernel_style`` takes, checked.

    Raises:
        InputError: an unknown style or setting, or an impossible count.
    """
    from moesim.hardware.kernels import kernel_style

    section = scenario.spec.kernels
    spec = {"base": section.base, **section.others} if section.others else section.base
    with located(scenario, ("kernels",)):
        kernel_style(spec)
    return spec


def _calibrations(scenario: Scenario) -> Calibrations:
    """Return the constants of the cost models."""
    from moesim.hardware.calibration_file import read_calibration
    from moesim.hardware.calibrations import Calibrations

    own = scenario.spec.costs.calibration
    if own is None:
        return Calibrations()
    with located(scenario, ("costs", "calibration"), "the calibration cannot be used: "):
        return read_calibration(scenario.path(own))


def build_setup(scenario: Scenario, policy: Policy) -> Setup:
    """Return all that one run of one policy needs, checked against each other.

    Raises:
        InputError: as the other functions of this module; or the policy cannot place the model's experts on
            the devices; or the counts of a step would not fit this machine's memory.
    """
    from moesim.engine.overlap import Overlap, stretch
    from moesim.engine.parallel import Parallelism
    from moesim.engine.setup import MemoryOptions, Setup
    from moesim.hardware.kernels import kernel_style
    from moesim.model.sharded import sharded
    from moesim.workload.steps import Requests, Workload

    model, cluster = build_model(scenario), build_cluster(scenario)
    check_size(scenario, cluster.size, model.experts, len(model.moe_layers))
    spread = scenario.spec.parallelism
    parallel = Parallelism(spread.attention_tp, spread.expert_tp)
    for key, parts in (("attention_tp", (spread.attention_tp, 1)), ("expert_tp", (1, spread.expert_tp))):
        with located(scenario, ("parallelism", key)):
            Parallelism(*parts).check(cluster.size)
            sharded(model, *parts)
    work, memory = scenario.workload, scenario.memory
    served = work.requests
    requests = None if served is None else Requests(served.count, served.prompt, served.output, served.most)
    overlap = Overlap(scenario.spec.overlap.kind, scenario.spec.overlap.slowdown)
    with located(scenario, ("overlap",)):
        overlap.check(work.phase)
    setup = Setup(
        model=sharded(model, spread.attention_tp, spread.expert_tp),
        cluster=cluster,
        parallel=parallel,
        routing=build_source(scenario, model),
        workload=Workload(
            work.phase, work.steps, work.tokens_per_device, work.context, work.moe_only, requests
        ),
        policy=policy,
        kernels=kernel_style(kernels_spec(scenario)),
        memory=MemoryOptions(memory.replicated_experts, memory.other_inputs, memory.reserve),
        detail=scenario.engine.detail,
        span_steps=scenario.engine.spans,
        costs=scenario.spec.costs.source,
        calibrations=_calibrations(scenario),
        overlap=overlap,
        seed=scenario.seed,
    )
    if setup.overlap.kind != "none":
        with located(scenario, ("overlap",)):
            stretch(cluster, setup.kernels)
    return _checked(scenario, setup)


def with_policy(scenario: Scenario, setup: Setup, policy: Policy) -> Setup:
    """Return what ``build_setup`` would for another policy; routing and known bounds are shared.

    Raises:
        InputError: as ``build_setup``.
    """
    return _checked(scenario, replace(setup, policy=policy))


def _checked(scenario: Scenario, setup: Setup) -> Setup:
    check_placement(scenario, setup.policy, setup.view)
    with located(scenario, ("costs", "source")):
        _ = setup.prices
    with located(scenario, ("kernels",)):
        setup.check_prices()
    check_offload(scenario, setup)
    return setup
