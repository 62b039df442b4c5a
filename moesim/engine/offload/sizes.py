"""How much every device caches, where the rest is kept, and what is known of the past."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from moesim.engine.setup import Setup
from moesim.errors import InputError
from moesim.policies.cache.base import CacheFrame
from moesim.policies.offload.system import Offload
from moesim.policies.prefetch.base import NoPrefetch
from moesim.routing.requests import TokenSource
from moesim.units import format_bytes

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

PROFILED: Final = 4096
"""Tokens of the past that policies learn from."""

GLANCED: Final = 64
"""Tokens of the past that a check before the run looks at, which is to be quick."""

_PIPELINED: Final = 8
"""Parts of an expert on a way of several links, where nothing is said, so that all of them work at once."""

_SPARE: Final = 0.05
"""Share of device memory that a cache of unstated size leaves free, for activations and fragmentation."""


@dataclass(frozen=True, eq=False)
class Sizes:
    """What an offloading run begins with.

    Attributes:
        store: where all experts are, ``host`` or ``storage``.
        chunk: bytes between which a more urgent copy may go first.
        frames: what the cache policy of each device is told, with the capacity that it chose.
        slots: experts of each MoE layer that the caches hold together.
        owned: experts of each MoE layer that each device may hold [devices][MoE layers].
        owner: device of each expert [MoE layers][experts].
        mask: the same as numbers, bool [devices, MoE layers, experts].
        narrow: bytes of each expert over what the model gives it [MoE layers, experts].
        warmth: what caches begin with, most first [MoE layers, experts]; None: empty.
        profile: expert ids of past tokens [tokens, MoE layers, k].
        profile_sequence: their requests [tokens].
    """

    store: str
    chunk: float
    frames: list[CacheFrame]
    slots: list[int]
    owned: list[list[frozenset[int]]]
    owner: list[list[int]]
    mask: npt.NDArray[np.bool_]
    narrow: Floats
    warmth: Floats | None
    profile: Ints
    profile_sequence: Ints


def sizes_of(setup: Setup, offload: Offload, source: TokenSource, profiled: int = PROFILED) -> Sizes:
    """Work out the sizes of a run.

    Args:
        setup: the run.
        offload: its system.
        source: which experts tokens take.
        profiled: tokens of the past that policies learn from.

    Raises:
        InputError: a cache in which a token does not fit, experts that their store cannot hold, or parts of
            the system that do not go together.
    """
    shape, settings = setup.cluster.shape, offload.settings
    if shape.host is None:
        message = f"cluster '{setup.cluster.name}' describes no 'host' from which experts could be loaded"
        raise InputError(message, hint="for example host: {memory: 128 GB, dram: ddr4-3200, link: pcie4}")
    if setup.parallel.expert_tp > 1 or setup.parallel.attention_tp > 1:
        message = "offloading works with whole experts on each device, not with tensor parallelism"
        raise InputError(message, hint="set parallelism.expert_tp and attention_tp to 1")
    if setup.overlap.kind != "none":
        message = f"overlap is '{setup.overlap.kind}', but offloading overlaps copies, not micro-batches"
        raise InputError(message, hint="set overlap: none")
    if any(len(set(experts)) > 1 for experts in setup.routed):
        message = f"the experts of a layer of '{setup.model.name}' are of several kinds, offloading knows one"
        raise InputError(message, hint="describe the model with experts of one size")
    if offload.cache.keeps == "fixed" and not isinstance(offload.prefetch, NoPrefetch):
        message = (
            f"cache '{offload.cache.name}' never changes, so prefetch '{offload.prefetch.name}' has no room"
        )
        raise InputError(message, hint="prefetch: none, or another cache")
    if setup.policy.refresh is not None:
        message = "offloading moves experts by itself; 'refresh' is for placements that stay on the devices"
        raise InputError(message, hint="leave out refresh")
    weighted = offload.cache.needs_weights or offload.cache.precisions() is not None
    if weighted and source.request(0, 1).weights is None:
        message = f"cache '{offload.cache.name}' needs gate weights, and the trace has none"
        raise InputError(message, hint="record gate weights, or choose a cache that does without")
    store = settings.store or ("storage" if shape.host.unified else "host")
    if store == "storage" and offload.misses.uses_cpu:
        message = f"misses '{offload.misses.name}' computes experts on the CPU, but they are on a drive"
        hint = "misses: load" + ("" if shape.host.unified else ", or store: host")
        raise InputError(message, hint=hint)
    past = source.past(profiled)
    layers, experts, k = len(setup.moe_rows), setup.model.experts, setup.model.top_k
    empty = np.zeros((0, layers, k), dtype=np.int64)
    profile = np.concatenate([tokens.ids for tokens in past]) if past else empty
    sequence = np.repeat(np.arange(len(past), dtype=np.int64), [len(tokens) for tokens in past])
    flat = profile + np.arange(layers)[np.newaxis, :, np.newaxis] * experts
    uses = np.bincount(flat.ravel(), minlength=layers * experts).reshape(layers, experts)
    narrow = _narrow(uses, settings.narrow_share, settings.narrow_size)
    size = setup.expert_bytes * narrow
    _check_store(setup, store, float(size.sum()))
    mask, owner = _owners(setup)
    frames = [_frame(setup, offload, device, mask[device], size, profile) for device in range(len(mask))]
    total = sum((frame.capacity for frame in frames), np.zeros(frames[0].caches, dtype=np.int64))
    slots = total.tolist() if frames[0].caches == layers else [int(total[0])] * layers
    staged = store == "storage" and not shape.host.unified
    warm = settings.warm or offload.cache.keeps == "fixed"
    return Sizes(
        store=store,
        chunk=float(np.ceil(setup.expert_bytes.max() / (settings.chunks or (_PIPELINED if staged else 1)))),
        frames=frames,
        slots=slots,
        owned=[[frozenset(np.flatnonzero(row).tolist()) for row in mine] for mine in mask],
        owner=owner,
        mask=mask,
        narrow=narrow,
        warmth=uses.astype(np.float64) if warm else None,
        profile=profile,
        profile_sequence=sequence,
    )


def _narrow(uses: Ints, share: float, size: float) -> Floats:
    """Give the least used experts of each layer fewer bits."""
    narrow = np.ones(uses.shape)
    count = int(uses.shape[1] * share + 0.5)
    order = np.argsort(uses, axis=1, kind="stable")[:, :count]
    np.put_along_axis(narrow, order, size, axis=1)
    return narrow


def _owners(setup: Setup) -> tuple[npt.NDArray[np.bool_], list[list[int]]]:
    """Return which experts each device may hold, and the first device of each."""
    slots = setup.placement.slots
    layers, devices, _ = slots.shape
    mask = np.zeros((devices, layers, setup.model.experts), dtype=bool)
    layer, device, place = np.nonzero(slots >= 0)
    mask[device, layer, slots[layer, device, place]] = True
    return mask, mask.argmax(axis=0).tolist()


def _check_store(setup: Setup, store: str, size: float) -> None:
    """Refuse experts that do not fit where they are to be kept."""
    shape = setup.cluster.shape
    assert shape.host is not None
    if store == "storage" and shape.storage is None:
        message = f"cluster '{setup.cluster.name}' describes no 'storage' from which experts could be loaded"
        raise InputError(message, hint="for example storage: nvme-gen4")
    place = shape.storage if store == "storage" else shape.host
    assert place is not None
    capacity = place.capacity * len(shape.nodes)
    if size > capacity:
        where = "storage" if store == "storage" else "host memory"
        message = f"the experts of '{setup.model.name}' take {format_bytes(size)}, the {where} has "
        hint = "set offload.store: storage" if store == "host" and shape.storage is not None else "fewer bits"
        raise InputError(message + format_bytes(capacity), hint=hint)


def _frame(
    setup: Setup,
    offload: Offload,
    device: int,
    mine: npt.NDArray[np.bool_],
    size: Floats,
    profile: Ints,
) -> CacheFrame:
    """Return what the cache policy of a device is told."""
    settings, k = offload.settings, setup.model.top_k
    layers, experts = mine.shape
    own = mine.sum(axis=1).astype(np.int64)
    whole = settings.scope == "global"
    largest = float(size.max())
    if settings.slots is not None:
        capacity = np.minimum(own, settings.slots)
    elif settings.whole_layers is not None:
        capacity = np.minimum(int(own.max()) * settings.whole_layers, int(own.sum()))[np.newaxis]
    elif settings.ratio is not None:
        capacity = (own * settings.ratio + 1e-9).astype(np.int64)
    else:
        room = float(settings.memory) if settings.memory is not None else free_memory(setup, device)
        capacity = np.minimum(own, int(room // (largest * layers)))
        if whole:
            capacity = np.minimum(int(room // largest), int(own.sum()))[np.newaxis]
    if whole and capacity.size > 1:
        capacity = capacity.sum(keepdims=True)
        if settings.ratio is not None:
            capacity = np.array([int(own.sum() * settings.ratio + 1e-9)])
    caches = capacity.size
    if offload.cache.needs_profile and not len(profile):
        message = f"the cache '{offload.cache.name}' needs a profile of the past, and the routing has none"
        raise InputError(message, hint="set routing.profile above 0")
    frame = CacheFrame(layers, experts, k, caches, capacity.astype(np.int64), profile)
    least = min(k, int(own.min()))
    _check_fits(offload, frame.capacity, least, k)
    chosen = np.asarray(offload.cache.sizes(replace(frame, top_k=least)), dtype=np.int64)
    if caches == layers:
        chosen = np.minimum(chosen, own)
    _check_fits(offload, chosen, least, k)
    _check_shares(offload, chosen)
    return replace(frame, capacity=chosen)


def _check_fits(offload: Offload, capacity: Ints, least: int, k: int) -> None:
    """Refuse caches in which what a token needs of a device does not fit."""
    if offload.cache.keeps != "fixed" and int(capacity.min()) < least:
        message = (
            f"a cache of {int(capacity.min())} experts per layer is smaller than top-{k}: "
            "a token would not fit"
        )
        raise InputError(message, hint=f"the smallest holds {least}; give offload.slots, ratio or memory")


def _check_shares(offload: Offload, capacity: Ints) -> None:
    """Refuse caches whose share for one precision is less than an expert."""
    mix = offload.cache.precisions()
    if mix is None or not mix.low_share:
        return
    high, low = mix.split(capacity)
    for part, name in ((high, "high"), (low, "low")):
        if int(part.min()) < 1:
            message = (
                f"the {name}-precision part of a cache of {int(capacity.min())} experts has no room for one"
            )
            raise InputError(message, hint=f"low_share is {mix.low_share:g}; change it, or cache more")


def free_memory(setup: Setup, device: int) -> float:
    """Return the bytes of a device that neither weights outside the experts nor sequences take."""
    memory = setup.cluster.devices[device].memory.capacity
    taken = setup.model.resident_bytes + float(cached_bytes(setup)[device])
    return max(0.0, memory * (1 - _SPARE) - taken - setup.memory.reserve)


def cached_bytes(setup: Setup) -> Floats:
    """Return the bytes that sequences cache on each device at their longest, [devices]."""
    served, sequences = setup.workload.requests, setup.tokens.astype(np.float64)
    context = setup.workload.context if served is None else served.prompt + served.output
    if served is None and setup.workload.phase == "prefill":
        sequences = np.ones_like(sequences)
    return sequences * float(setup.model.sequence_bytes(context))
