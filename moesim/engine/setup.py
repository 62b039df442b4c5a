"""Everything one run needs, built and checked."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from moesim.engine.overlap import Overlap
from moesim.engine.parallel import Parallelism
from moesim.engine.view import cluster_view
from moesim.errors import InputError, MoesimError, PolicyError
from moesim.hardware.analytic import AnalyticCosts
from moesim.hardware.calibrations import Calibrations
from moesim.hardware.cluster import Cluster
from moesim.hardware.group_collectives import group_collective_seconds
from moesim.hardware.kernels import KernelStyle
from moesim.hardware.spec import Device
from moesim.measured.notes import Notes, outside
from moesim.model.spec import ExpertSpec, LayerSpec, ModelSpec
from moesim.policies.base import ClusterView, Policy
from moesim.policies.plan import Placement
from moesim.routing.source import RoutingSource
from moesim.workload.steps import Workload

if TYPE_CHECKING:
    from moesim.measured.source import MeasuredTables


@dataclass(frozen=True)
class MemoryOptions:
    """What else stands in device memory.

    Attributes:
        replicated_experts: every device keeps the weights of all experts, as single-layer benchmark
            scripts do that slice one full tensor; placement still decides who computes.
        other_inputs: every device keeps the inputs of all devices, as such scripts may.
        reserve: bytes set aside for the runtime, per device.
    """

    replicated_experts: bool = False
    other_inputs: bool = False
    reserve: int = 0


@dataclass(frozen=True, eq=False)
class Setup:
    """One policy on one cluster under one workload.

    Attributes:
        model: what runs.
        cluster: where; its devices form one expert-parallel group.
        routing: which experts tokens take.
        workload: which tokens arrive when.
        policy: what is decided.
        kernels: how the software runs a layer.
        memory: what else stands in memory.
        detail: ``array`` (lock-step phases as numpy operations) or ``events`` (a SimPy process per
            device); both give the same times.
        span_steps: number of first steps whose spans are recorded for timelines.
        costs: whether kernels are priced by models or read off measured tables.
        calibrations: where the constants of the cost models are looked up.
        parallel: tensor parallelism beside expert parallelism; ``model`` is one device's share of it.
        overlap: what runs beside what.
        bounds: lower bounds already known, shared by runs that differ in the policy only.
        seed: of the run, for what is drawn outside the routing.
    """

    model: ModelSpec
    cluster: Cluster
    routing: RoutingSource
    workload: Workload
    policy: Policy
    kernels: KernelStyle
    memory: MemoryOptions = MemoryOptions()
    detail: Literal["array", "events"] = "array"
    span_steps: int = 1
    costs: Literal["analytic", "measured"] = "analytic"
    calibrations: Calibrations = field(default_factory=Calibrations)
    parallel: Parallelism = field(default_factory=Parallelism)
    overlap: Overlap = field(default_factory=Overlap)
    bounds: dict[tuple[int, bytes], tuple[npt.NDArray[np.float64], float]] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Check that groups divide the devices, and that model and routing speak of the same experts."""
        self.parallel.check(self.cluster.size)
        self.overlap.check(self.workload.phase)
        if not self.model.moe_layers:
            message = f"model '{self.model.name}' has no MoE layer"
            raise InputError(message)
        for name, mine, theirs in (
            ("experts", self.model.experts, self.routing.experts),
            ("experts per token", self.model.top_k, self.routing.top_k),
            ("MoE layers", len(self.model.moe_layers), self.routing.layers),
        ):
            if mine != theirs:
                message = (
                    f"routing '{self.routing.name}' has {theirs} {name}, model '{self.model.name}' {mine}"
                )
                raise InputError(message)

    @cached_property
    def layers(self) -> tuple[LayerSpec, ...]:
        """Transformer layers that run, in order."""
        return self.model.moe_layers if self.workload.moe_only else self.model.layers

    @cached_property
    def moe_rows(self) -> npt.NDArray[np.int64]:
        """Rows of ``layers`` that are MoE layers, int64 [MoE layers]."""
        return np.asarray([row for row, layer in enumerate(self.layers) if layer.is_moe], dtype=np.int64)

    @cached_property
    def routed(self) -> tuple[tuple[ExpertSpec, ...], ...]:
        """Experts of each MoE layer that take part in dispatch; zero-cost ones stand on every device."""
        return tuple(tuple(e for e in layer.experts if e.exchanged) for layer in self.model.moe_layers)

    @cached_property
    def expert_bytes(self) -> npt.NDArray[np.float64]:
        """Weight bytes of each routed expert [MoE layers, experts]."""
        return np.asarray([[e.bytes for e in experts] for experts in self.routed], dtype=np.float64)

    @cached_property
    def expert_params(self) -> npt.NDArray[np.float64]:
        """Parameters of each routed expert [MoE layers, experts]."""
        return np.asarray([[e.params for e in experts] for experts in self.routed], dtype=np.float64)

    @cached_property
    def prices(self) -> dict[Device, AnalyticCosts]:
        """What kernels cost on each kind of device."""
        made: type[AnalyticCosts] = AnalyticCosts
        if self.costs == "measured":
            from moesim.measured.costs import MeasuredCosts

            made = MeasuredCosts
        return {
            kind: made(kind, self.calibrations, self.model.activation_dtype, self.kernels.backend)
            for kind in dict.fromkeys(self.cluster.devices)
        }

    @cached_property
    def tables(self) -> MeasuredTables | None:
        """Measured tables of the network, where prices are read off tables and all devices are alike."""
        if self.costs != "measured" or not self.cluster.homogeneous:
            return None
        from moesim.measured.source import measured_tables

        device = self.cluster.devices[0]
        tables = measured_tables(device)
        # Kin have the same chip, but other links.
        if tables.device == device.name:
            return tables
        self.said.add(outside("exchanges and collectives", device.name, ""))
        return None

    @cached_property
    def said(self) -> Notes:
        """Remarks on prices of the network."""
        return Notes()

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be said about the placement and the prices of a run that has ended."""
        said = Notes()
        said.merge([self.said])
        said.merge(getattr(prices, "notes", Notes()) for prices in self.prices.values())
        return (*self.rank_placement.notes, *said.texts())

    def check_prices(self) -> None:
        """Look up the kernels of every kind of expert before anything runs.

        Raises:
            InputError: nothing is known of the kernels asked for.
        """
        for prices in self.prices.values():
            if self.kernels.grouped:
                for dtype in {expert.dtype for experts in self.routed for expert in experts if expert.gemms}:
                    prices.expert_layer(dtype)

    @cached_property
    def tokens(self) -> npt.NDArray[np.int64]:
        """Tokens per device of a step, int64 [devices]."""
        return self.workload.tokens(self.cluster.size)

    def with_tokens(self, tokens: npt.NDArray[np.int64]) -> Setup:
        """Return the same run with other tokens per device [devices]; experts stay where they are."""
        workload = replace(self.workload, tokens_per_device=tuple(tokens.tolist()))
        changed = replace(self, workload=workload, bounds=None)
        shared = ("placement", "prices", "tables", "said")
        vars(changed).update({name: getattr(self, name) for name in shared})
        return changed

    def with_placement(self, ranks: Placement) -> Setup:
        """Return the same run with experts on other ranks; everything else that was looked up is kept."""
        changed = copy.copy(self)
        vars(changed).pop("placement", None)
        vars(changed)["rank_placement"] = ranks
        return changed

    @cached_property
    def together(self) -> npt.NDArray[np.int64]:
        """Tokens on which each device works outside the routed experts, int64 [devices]."""
        return self.parallel.together(self.tokens)

    @cached_property
    def rank_tokens(self) -> npt.NDArray[np.int64]:
        """Tokens of each expert-parallel rank, int64 [ranks]."""
        return self.parallel.by_rank(self.tokens)

    @property
    def gathers(self) -> bool:
        """Whether every device sees all tokens instead of being sent those of its experts."""
        return self.kernels.exchange == "gather"

    @property
    def summed_by_combine(self) -> bool:
        """Whether combine sums tensor-parallel parts of shared experts too."""
        return self.gathers and self.parallel.attention_tp == self.cluster.size

    def all_reduce_seconds(self, tokens: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return what one sum over tensor-parallel devices takes, for tokens of the group [...]."""
        size = tokens * float(self.model.token_bytes)
        parts = self.parallel.attention_tp
        modelled = group_collective_seconds(self.cluster, "all_reduce", size, parts, self.calibrations)
        if self.tables is None or parts == 1:
            return modelled
        inside_node = bool(self.cluster.node_of[parts - 1] == self.cluster.node_of[0])
        told = self.tables.collective("all_reduce", parts, size)
        if not (inside_node and told.inside.all()):
            self.said.add(outside(f"all-reduce among {parts} devices", self.tables.device, ""))
        return np.where(told.inside & inside_node, told.seconds, modelled)

    @cached_property
    def view(self) -> ClusterView:
        """What the policies may know; they think in expert-parallel ranks."""
        return cluster_view(self)

    @cached_property
    def rank_placement(self) -> Placement:
        """Which ranks the policy gives the experts, given the routing's profiling window."""
        policy = self.policy.placement
        shape = (len(self.model.moe_layers), self.model.experts)
        # Drawing a past takes seconds with large models, so nobody draws one that is not looked at.
        blind = not getattr(policy, "looks_back", True)
        past = np.zeros(shape, dtype=np.int64) if blind else self.routing.profile()
        with blamed(self.policy, "placing experts"):
            return policy.place(past, self.view)

    @cached_property
    def placement(self) -> Placement:
        """Of which experts each device holds a share, or all where ranks are single devices."""
        ranks, parts = self.rank_placement, self.parallel.expert_tp
        return ranks if parts == 1 else replace(ranks, slots=np.repeat(ranks.slots, parts, axis=1))


@contextmanager
def blamed(policy: Policy, doing: str) -> Iterator[None]:
    """Name the policy when its code fails.

    Raises:
        PolicyError: in place of any error that is not one of moesim's own.
    """
    try:
        yield
    except (MoesimError, MemoryError):
        raise
    except Exception as error:
        raise PolicyError(policy.name, doing, f"{type(error).__name__}: {error}") from error
