"""How the software runs a layer: which kernels, how many passes over memory, which buffers live.

The same hardware is fast or slow, roomy or full, depending on whether the expert layer runs as fused
grouped kernels (vLLM, SGLang, TensorRT-LLM) or as eager tensor operations looping over experts (the
reference code of research systems). A style counts both kinds of work; hardware prices the counts.

Sources of the counts. ``eager``: the tensor operations of the forward pass in
SalesforceAIResearch/LeastLoadedEP @0349746, ``llep_ffn_forward``, ``llep_forward_a2a_inputs`` and
``llep_forward_a2a_outputs``, counted one by one (a gather reads and writes once, a clamp of a strided
half reads the full line and writes once, ...). ``fused``: the operands of two grouped GEMMs with a
gated activation between them, and one gather on the way out and back. ``deepep``: the same with tokens
sent once per node in fp8 with a 4-byte scale per 128 elements and results returned in bf16 (DeepEP README).
``deepep_low_latency``: the same with one message per copy. ``rack``: the same with one message per token and
device, as the NVLink kernels of TensorRT-LLM send them.

A style also names the library that moves tokens (``exchange``), whose measured times by size are used where
it was measured on the device; ``moesim.hardware.exchanges`` prices it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, Final, Literal

from moesim.errors import InputError, unknown_name

SENDS: Final = ("copies", "devices", "nodes")
"""Ways in which token copies travel."""

EXCHANGES: Final = ("nccl", "deepep_normal", "deepep_low_latency", "rack", "plain", "gather")
"""Libraries that move tokens; ``plain`` is a fixed latency and links that drain; with ``gather`` every device
sees all tokens (all-gather and reduce-scatter, or an all-reduce where tensor parallelism has them there)."""

_SENDS_OF: Final[Mapping[str, str]] = MappingProxyType(
    {"deepep_normal": "nodes", "deepep_low_latency": "copies", "rack": "devices"}
)
_CHOICES: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = MappingProxyType(
    {"sends": ("way of sending for 'sends'", SENDS), "exchange": ("exchange", EXCHANGES)}
)


@dataclass(frozen=True)
class KernelStyle:
    """Counts of work and buffers of one MoE layer's software.

    "Copy" is a (token, expert) pair; model-wide means one row of the hidden size, hidden-wide one row
    of the expert's intermediate size. Passes count elements read plus elements written, per copy and
    unit of width. Buffers count tensors alive at the named stage.

    Attributes:
        name: style name.
        grouped: all experts of a device in one grouped kernel (True) or one after another (False).
        backend: whose fused expert kernels run, ``software/family`` as in the calibration tables; ``auto``
            takes those that vLLM runs on the device.
        graphs: launches are recorded once and replayed, so that the host costs nothing per kernel.
        activation_passes: hidden-wide passes per computed copy outside the GEMMs and fused calls.
        expert_passes: model-wide passes per computed copy outside them (sort, scatter, weigh).
        permute_passes: model-wide passes per sent copy before dispatch.
        unpermute_passes: model-wide passes per sent copy after combine.
        sends: how copies travel: one message per copy (``copies``), one per token and device
            (``devices``), or one per token and node, handed on inside the node (``nodes``).
        exchange: the library that moves them: ``nccl`` (all-to-all of any amounts), DeepEP's normal or
            low-latency kernels, the NVLink kernels of a ``rack``, or ``plain``: a fixed latency and links
            that drain, also used instead of the others on devices where they were not measured.
        exchange_sms: compute units that its kernels hold while they run; 0 if none are held, or if that
            is not known (``nccl``, ``rack``). DeepSeek-V3's report gives 20, DeepEP's tables are of 24.
        nvlink: low-latency kernels send copies inside a node over the node's own links; before 2025-06
            DeepEP sent all of them over the NIC.
        dispatch_width: bytes sent per copy on dispatch, as a share of the activation's bytes (fp8 with
            block scales of 128: 0.516).
        layer_ops: kernels launched per MoE layer outside the experts.
        layer_syncs: scalar reads by the host per MoE layer.
        expert_ops: kernels launched per active expert (in a grouped style: per layer).
        expert_syncs: scalar reads by the host per active expert.
        token_buffers: model-wide buffers per token that live all the time.
        dispatch_sent: model-wide buffers per sent copy during dispatch.
        expert_model: model-wide buffers per received copy while experts run.
        expert_hidden: hidden-wide buffers per copy of the largest unit of work (see ``sliced``).
        expert_hidden_late: the same when the output projection has begun and ...
        expert_model_late: ... its model-wide result exists beside them.
        expert_hidden_carried: hidden-wide buffers per copy of the slice before, still alive.
        sliced: the unit of work is one expert's slice; otherwise all copies of the device at once.
        reorder_model: model-wide buffers per received copy when outputs are put back in order.
        reorder_hidden: hidden-wide buffers per copy of the last unit, still alive then.
        combine_received: model-wide buffers per received copy during combine.
        combine_sent: model-wide buffers per sent copy during combine.
        combine_tokens: model-wide buffers per token during combine.
    """

    name: str
    grouped: bool = True
    backend: str = "auto"
    graphs: bool = True
    activation_passes: float = 0.0
    expert_passes: float = 0.0
    permute_passes: float = 2.0
    unpermute_passes: float = 2.0
    sends: Literal["copies", "devices", "nodes"] = "copies"
    exchange: Literal["nccl", "deepep_normal", "deepep_low_latency", "rack", "plain", "gather"] = "nccl"
    exchange_sms: int = 0
    nvlink: bool = True
    dispatch_width: float = 1.0
    layer_ops: int = 12
    layer_syncs: int = 0
    expert_ops: int = 3
    expert_syncs: int = 0
    token_buffers: float = 2.0
    dispatch_sent: float = 1.0
    expert_model: float = 2.0
    expert_hidden: float = 3.0
    expert_hidden_late: float = 1.0
    expert_model_late: float = 0.0
    expert_hidden_carried: float = 0.0
    sliced: bool = False
    reorder_model: float = 2.0
    reorder_hidden: float = 0.0
    combine_received: float = 1.0
    combine_sent: float = 1.0
    combine_tokens: float = 1.0

    def __post_init__(self) -> None:
        """Check that the library sends in the way that is asked for, and has compute units to run on."""
        needs = _SENDS_OF.get(self.exchange, self.sends)
        if self.sends != needs:
            message = f"the exchange '{self.exchange}' sends per {needs}, not per {self.sends}"
            raise InputError(message, hint=f"use 'sends: {needs}' or 'exchange: nccl'")
        if self.exchange == "deepep_normal" and self.exchange_sms < 1:
            message = "the exchange 'deepep_normal' needs 'exchange_sms' of at least 1"
            raise InputError(message, hint="20 in DeepSeek-V3's report, 24 in DeepEP's tables")

    def sm_share(self, compute_units: int) -> float:
        """Return the share of a device's compute units that its exchange kernels hold while they run."""
        return min(1.0, self.exchange_sms / compute_units)


_FUSED = KernelStyle(name="fused")

_EAGER = KernelStyle(
    name="eager",
    grouped=False,
    graphs=False,
    activation_passes=18.0,
    expert_passes=8.0,
    permute_passes=3.0,
    unpermute_passes=3.25,
    layer_ops=40,
    layer_syncs=8,
    expert_ops=14,
    expert_syncs=2,
    token_buffers=2.0,
    dispatch_sent=2.0,
    expert_model=3.0,
    expert_hidden=7.0,
    expert_hidden_late=6.0,
    expert_model_late=1.0,
    expert_hidden_carried=1.0,
    sliced=True,
    reorder_model=4.0,
    reorder_hidden=6.0,
    combine_received=3.0,
    combine_sent=2.0,
    combine_tokens=1.0,
)

_FP8_WIDTH: Final = 0.5 * (1 + 4 / 128)

_DEEPEP = KernelStyle(
    name="deepep", sends="nodes", exchange="deepep_normal", exchange_sms=20, dispatch_width=_FP8_WIDTH
)

_LOW_LATENCY = KernelStyle(
    name="deepep_low_latency", exchange="deepep_low_latency", dispatch_width=_FP8_WIDTH
)

_RACK = KernelStyle(name="rack", sends="devices", exchange="rack", dispatch_width=_FP8_WIDTH)

_STYLES: Mapping[str, KernelStyle] = MappingProxyType(
    {style.name: style for style in (_FUSED, _EAGER, _DEEPEP, _LOW_LATENCY, _RACK)}
)


def kernel_style(spec: str | Mapping[str, Any]) -> KernelStyle:
    """Return a style by name, or a built-in one (``base``) with some counts replaced.

    Raises:
        InputError: unknown style or key, or a count that is negative or of the wrong type.
    """
    if isinstance(spec, str):
        if spec not in _STYLES:
            raise unknown_name("kernel style", spec, _STYLES)
        return _STYLES[spec]
    base_name = spec.get("base", "fused")
    base = kernel_style(base_name if isinstance(base_name, str) else str(base_name))
    known = {f.name: getattr(base, f.name) for f in fields(KernelStyle) if f.name != "name"}
    chosen = dict(known)
    for key, value in spec.items():
        if key == "base":
            continue
        if key not in known:
            raise unknown_name("kernel setting", str(key), [*known, "base"])
        chosen[key] = _checked(key, value, known[key])
    if "exchange" in spec:
        chosen["sends"] = spec.get("sends", _SENDS_OF.get(chosen["exchange"], chosen["sends"]))
        if "exchange_sms" not in spec and chosen["exchange"] != base.exchange:
            chosen["exchange_sms"] = _DEEPEP.exchange_sms if chosen["exchange"] == _DEEPEP.exchange else 0
    return KernelStyle(name=f"{base.name} (changed)", **chosen)


def _checked(key: str, value: Any, default: Any) -> Any:
    """Return a setting of the type of its default."""
    if key in _CHOICES:
        kind, options = _CHOICES[key]
        if value in options:
            return value
        raise unknown_name(kind, str(value)[:60], options)
    if isinstance(default, str):
        if isinstance(value, str) and 0 < len(value) <= 60:
            return value
        message = f"'{key}' must be a name, got {value!r}"
        raise InputError(message)
    if isinstance(default, bool):
        if isinstance(value, bool):
            return value
        message = f"'{key}' must be true or false, got {value!r}"
        raise InputError(message)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1e6:
        message = f"'{key}' must be a number from 0 to 1e6, got {value!r}"
        raise InputError(message)
    return int(value) if isinstance(default, int) else float(value)
