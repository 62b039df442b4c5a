"""MoE-Lightning's hierarchical roofline, and what it says of schedules and policies (ASPLOS 2025).

A layer's weights and the KV cache live in CPU memory; a batch of N sequences is decoded in micro-batches.
Each resource, link, CPU and GPU, is busy for so long per layer; the schedule says which of them overlap.
All rates are what a resource reaches; memories are what may be used of them. Units are bytes, FLOP and s.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from moesim.errors import InputError

Floats = npt.NDArray[np.float64]
Amount = float | Floats
Schedule = Literal["cgopipe", "flexgen", "flexgen_cpu"]


def attainable(peak: float, bandwidth: float, intensity: float) -> float:
    """Return the performance of data of a processor's own memory, min(P, B I) (FLOP/s)."""
    return min(peak, bandwidth * intensity)


def attainable_across(
    peak: float, bandwidth: float, across: float, intensity: float, intensity_across: float
) -> float:
    """Return the performance with data of another memory, min(P_i, B_i I_i, B_ji I_j) (FLOP/s).

    Args:
        peak: of the processor, P_i.
        bandwidth: of its own memory, B_i.
        across: from the other memory to it, B_ji.
        intensity: FLOP per byte read from its own memory, I_i.
        intensity_across: FLOP per byte that comes across, I_j.
    """
    return min(attainable(peak, bandwidth, intensity), across * intensity_across)


@dataclass(frozen=True)
class Machine:
    """A GPU and its host.

    Attributes:
        gpu_memory: bytes of GPU memory that may be used.
        cpu_memory: bytes of CPU memory that may be used.
        gpu_bandwidth: of GPU memory (bytes/s).
        cpu_bandwidth: of CPU memory (bytes/s).
        link: between the two, each way (bytes/s).
        gpu_flops: of the GPU (FLOP/s).
        cpu_flops: of the CPU (FLOP/s).
    """

    gpu_memory: float
    cpu_memory: float
    gpu_bandwidth: float
    cpu_bandwidth: float
    link: float
    gpu_flops: float
    cpu_flops: float

    def stay_below(self) -> float:
        """Return the first turning point: FLOP per byte in CPU memory below which moving data is no gain.

        There the link gives as much as the CPU does at best, B_cg I = P_c: as long as the link is slower
        than CPU memory, data of lower intensity are worked on faster where they are.
        """
        return self.cpu_flops / self.link if self.link < self.cpu_bandwidth else 0.0

    def balance(self, intensity: float) -> float:
        """Return the second turning point: FLOP per byte that crosses at which the link holds up nothing.

        There B_cg I = min(P_g, B_g I_g): beyond it, larger batches gain nothing.

        Args:
            intensity: FLOP per byte in GPU memory, I_g, which the micro-batch gives.
        """
        return attainable(self.gpu_flops, self.gpu_bandwidth, intensity) / self.link


@dataclass(frozen=True)
class Network:
    """A decoder of MoE layers that are all alike.

    Attributes:
        layers: their number.
        hidden: width of a token.
        intermediate: width of an expert.
        heads: attention heads.
        kv_heads: heads of keys and values.
        head: width of a head.
        experts: experts per layer.
        top_k: experts per token.
        item: bytes of a number.
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head: int
    experts: int
    top_k: int
    item: float = 2.0

    @property
    def expert_bytes(self) -> float:
        """Weights of the experts of a layer."""
        return 3.0 * self.hidden * self.intermediate * self.experts * self.item

    @property
    def dense_parameters(self) -> float:
        """Parameters of the projections of attention of a layer."""
        return 2.0 * self.hidden * self.head * (self.heads + self.kv_heads)

    @property
    def kv_bytes(self) -> float:
        """Keys and values of a token in a layer."""
        return 2.0 * self.kv_heads * self.head * self.item

    @property
    def expert_flops(self) -> float:
        """FLOP of a token's experts in a layer."""
        return 6.0 * self.hidden * self.intermediate * self.top_k


@dataclass(frozen=True)
class Work:
    """Requests that are all alike.

    Attributes:
        prompt: tokens of a prompt.
        generated: tokens that are generated.
    """

    prompt: int
    generated: int


@dataclass(frozen=True)
class LightningPolicy:
    """How a batch is run.

    Attributes:
        micro_batch: sequences that the GPU works on at once.
        micro_batches: how many of these a batch has.
        gpu_attention: whether attention runs on the GPU, else on the CPU.
        gpu_ffn: whether experts run on the GPU, else on the CPU.
        weights: share of the experts' weights that stays in GPU memory, r_w.
        cache: share of the KV cache that stays in GPU memory, r_c.
    """

    micro_batch: int
    micro_batches: int
    gpu_attention: bool = False
    gpu_ffn: bool = True
    weights: float = 0.0
    cache: float = 0.0

    @property
    def batch(self) -> int:
        """Sequences, N."""
        return self.micro_batch * self.micro_batches


@dataclass(frozen=True, eq=False)
class Busy:
    """Times of a layer: of the link, the CPU and the GPU (s)."""

    link: Amount
    cpu: Amount
    gpu: Amount

    def layer(self, schedule: Schedule) -> Amount:
        """Return the time of a layer.

        ``cgopipe``: all three overlap, as weights are paged and the CPU runs two micro-batches ahead.
        ``flexgen``: link and GPU overlap; there is no work on the CPU. ``flexgen_cpu``: as before, but the
        GPU waits while the CPU attends, and the CPU while the GPU works.
        """
        if schedule == "cgopipe":
            return np.maximum(np.maximum(self.link, self.cpu), self.gpu)
        return np.maximum(self.link, np.add(self.cpu, self.gpu))


def _roofline(size: Amount, bandwidth: float, flops: Amount, peak: float) -> Amount:
    return np.maximum(np.divide(size, bandwidth), np.divide(flops, peak))


@dataclass(frozen=True, eq=False)
class _Many:
    """Policies that differ in their numbers: arrays that go together, or numbers."""

    micro: Amount
    count: Amount
    weights: Amount
    cache: Amount
    gpu_attention: bool
    gpu_ffn: bool

    @classmethod
    def of(cls, policy: LightningPolicy) -> _Many:
        return cls(
            policy.micro_batch,
            policy.micro_batches,
            policy.weights,
            policy.cache,
            policy.gpu_attention,
            policy.gpu_ffn,
        )


def _decode(network: Network, machine: Machine, work: Work, many: _Many) -> Busy:
    """Return the times of a layer for one token of each sequence, the context at its mean."""
    batch = np.multiply(many.micro, many.count)
    context = work.prompt + work.generated / 2
    kv = context * network.kv_bytes
    attention_flops = 4.0 * network.heads * network.head * context
    # Experts that a micro-batch touches if all are alike.
    touched = 1 - (1 - network.top_k / network.experts) ** np.asarray(many.micro, dtype=np.float64)
    dense = _roofline(
        network.dense_parameters * network.item,
        machine.gpu_bandwidth,
        2 * network.dense_parameters * np.asarray(many.micro),
        machine.gpu_flops,
    )
    gpu: Amount = np.multiply(dense, many.count)
    cpu: Amount = np.zeros_like(batch)
    up: Amount = np.zeros_like(batch)
    down: Amount = np.zeros_like(batch)
    token = network.hidden * network.item
    if many.gpu_ffn:
        ffn = _roofline(
            touched * network.expert_bytes,
            machine.gpu_bandwidth,
            network.expert_flops * np.asarray(many.micro),
            machine.gpu_flops,
        )
        gpu = gpu + ffn * many.count
        up = up + np.subtract(1, many.weights) * network.expert_bytes
    else:
        cpu = cpu + _roofline(
            network.expert_bytes, machine.cpu_bandwidth, network.expert_flops * batch, machine.cpu_flops
        )
        up, down = up + batch * token, down + batch * token
    if many.gpu_attention:
        attend = _roofline(
            np.multiply(many.micro, kv),
            machine.gpu_bandwidth,
            np.multiply(many.micro, attention_flops),
            machine.gpu_flops,
        )
        gpu = gpu + np.multiply(attend, many.count)
        up = up + np.subtract(1, many.cache) * batch * kv
        down = down + np.subtract(1, many.cache) * batch * network.kv_bytes
    else:
        cpu = cpu + _roofline(batch * kv, machine.cpu_bandwidth, attention_flops * batch, machine.cpu_flops)
        heads = network.head * network.item
        up, down = (
            up + batch * network.heads * heads,
            down + batch * (network.heads + 2 * network.kv_heads) * heads,
        )
    return Busy(np.divide(np.maximum(up, down), machine.link), cpu, gpu)


def _prefill(network: Network, machine: Machine, work: Work, many: _Many) -> Amount:
    """Return the time of a layer for all prompts: on the GPU, weights come in and the KV cache goes out."""
    tokens = np.multiply(np.multiply(many.micro, many.count), float(work.prompt))
    linear = 2 * network.dense_parameters + network.expert_flops
    attention = 4.0 * network.heads * network.head * work.prompt / 2
    gpu = tokens * (linear + attention) / machine.gpu_flops
    up = np.subtract(1, many.weights) * network.expert_bytes
    down = np.subtract(1, many.cache) * tokens * network.kv_bytes
    return np.maximum(np.maximum(up, down) / machine.link, gpu)


def _memory(network: Network, work: Work, many: _Many) -> tuple[Amount, Amount]:
    """Return the bytes in GPU and CPU memory at the end of decoding."""
    layers = network.layers
    per_sequence = (work.prompt + work.generated) * network.kv_bytes
    kv = np.multiply(np.multiply(many.micro, many.count), per_sequence) * layers
    elsewhere = np.subtract(1, many.weights)
    streams = 1.0 if many.gpu_ffn else 0.0
    buffers = 2 * streams * elsewhere * network.expert_bytes
    # Of a micro-batch's prompts: input, queries, keys and values, output, and what experts hold between.
    between = (
        4 * network.hidden + network.top_k * (2 * network.intermediate + network.hidden)
    ) * network.item
    gpu = (
        layers * network.dense_parameters * network.item
        + np.multiply(many.weights, layers * network.expert_bytes)
        + np.multiply(many.cache, kv)
        + np.multiply(many.micro, work.prompt * between)
        + buffers
    )
    if many.gpu_attention:
        gpu = gpu + 2 * np.subtract(1, many.cache) * np.multiply(many.micro, per_sequence)
    cpu = elsewhere * layers * network.expert_bytes + np.subtract(1, many.cache) * kv + buffers
    return gpu, cpu


@dataclass(frozen=True)
class Estimate:
    """What a policy gives.

    Attributes:
        layer_s: time of a layer for one token of each sequence.
        link_s: of it, the link is busy for so long.
        cpu_s: the CPU.
        gpu_s: the GPU.
        prefill_s: time of all prompts.
        gpu_bytes: GPU memory used.
        cpu_bytes: CPU memory used.
        decode_rate: tokens per second, the first of each sequence for free.
        rate: tokens per second, prompts included.
    """

    layer_s: float
    link_s: float
    cpu_s: float
    gpu_s: float
    prefill_s: float
    gpu_bytes: float
    cpu_bytes: float
    decode_rate: float
    rate: float


def estimate(
    network: Network, machine: Machine, work: Work, policy: LightningPolicy, schedule: Schedule = "cgopipe"
) -> Estimate:
    """Estimate a policy; whether it fits is for the caller to see."""
    many = _Many.of(policy)
    busy = _decode(network, machine, work, many)
    layer = float(busy.layer(schedule))
    prefill = float(_prefill(network, machine, work, many)) * network.layers
    gpu, cpu = _memory(network, work, many)
    decode = layer * network.layers * max(work.generated - 1, 1)
    tokens = policy.batch * work.generated
    return Estimate(
        layer,
        float(busy.link),
        float(busy.cpu),
        float(busy.gpu),
        prefill,
        float(gpu),
        float(cpu),
        tokens / decode,
        tokens / (prefill + decode),
    )


def best_policy(
    network: Network,
    machine: Machine,
    work: Work,
    schedule: Schedule = "cgopipe",
    with_prefill: bool = False,
    most_micro_batches: int = 64,
    step: int = 4,
) -> LightningPolicy:
    """Return the policy of highest throughput that fits.

    Micro-batches of multiples of ``step`` and shares of the KV cache of tenths are tried; of the weights
    always as many stay in GPU memory as fit. FlexGen's schedules fix where attention runs.

    Args:
        network: the model.
        machine: what it runs on.
        work: the requests.
        schedule: which resources overlap.
        with_prefill: count the time of the prompts, too.
        most_micro_batches: bound of their number.
        step: of the size of micro-batches.

    Raises:
        InputError: nothing fits.
    """
    best: tuple[float, LightningPolicy] | None = None
    places = {"cgopipe": (False, True), "flexgen": (True,), "flexgen_cpu": (False,)}[schedule]
    count = np.arange(1.0, most_micro_batches + 1)[:, np.newaxis]
    for gpu_attention in places:
        for gpu_ffn in (True, False) if schedule == "cgopipe" else (True,):
            micro = np.arange(float(step), 2049, step)
            for cache in np.linspace(0, 1, 11) if gpu_attention else (0.0,):
                many = _Many(micro, count, 0.0, cache, gpu_attention, gpu_ffn)
                many = replace(many, weights=_most_weights(network, machine, work, many))
                gpu, cpu = _memory(network, work, many)
                fits = (
                    (gpu <= machine.gpu_memory * (1 + 1e-12))
                    & (cpu <= machine.cpu_memory * (1 + 1e-12))
                    & (np.asarray(many.weights) >= 0)
                )
                time = np.multiply(
                    _decode(network, machine, work, many).layer(schedule), max(work.generated - 1, 1)
                )
                if with_prefill:
                    time = time + _prefill(network, machine, work, many)
                rate = np.where(fits, micro * count / time, 0.0)
                at = np.unravel_index(int(np.argmax(rate)), rate.shape)
                if rate[at] > (best[0] if best else 0.0):
                    best = (
                        float(rate[at]),
                        LightningPolicy(
                            int(micro[at[1]]),
                            int(count[at[0], 0]),
                            gpu_attention,
                            gpu_ffn,
                            float(np.broadcast_to(many.weights, rate.shape)[at]),
                            float(cache),
                        ),
                    )
    if best is None:
        message = "no micro-batch fits into the memories"
        raise InputError(message, hint="give more memory, or shorter requests")
    return best[1]


def _most_weights(network: Network, machine: Machine, work: Work, many: _Many) -> Floats:
    """Return the share of the weights that fits into GPU memory, at most 1; negative if too much is there."""
    none, _ = _memory(network, work, replace(many, weights=0.0))
    every, _ = _memory(network, work, replace(many, weights=1.0))
    share = np.divide(machine.gpu_memory - none, np.subtract(every, none))
    most: Floats = np.minimum(share, 1.0)
    return most if many.gpu_ffn else np.where(most >= 0, 0.0, -1.0)
