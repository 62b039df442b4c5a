"""``moesim plan``: the plan a policy makes for given loads, without simulating anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moesim.cli.options import json_option, print_json
from moesim.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from moesim.policies.plan import DispatchPlan, Placement
    from moesim.routing.load import Load

MAX_LOAD_BYTES = 256 * 1024 * 1024


@click.command()
@click.argument("policy")
@click.option(
    "--loads", "loads_file", type=click.Path(), required=True, help="Counts as .json, .csv or .npy."
)
@click.option("--devices", type=click.IntRange(1, 65536), required=True, help="Number of devices.")
@click.option("--nodes", type=click.IntRange(1, 65536), default=1, help="Number of nodes.")
@click.option("--groups", type=click.IntRange(1, 65536), default=1, help="Routing groups of the model.")
@click.option(
    "--set", "pairs", multiple=True, metavar="KEY=VALUE", help="A parameter of the policy. Repeatable."
)
@json_option
def plan(
    policy: str,
    loads_file: str,
    devices: int,
    nodes: int,
    groups: int,
    pairs: tuple[str, ...],
    as_json: bool,
) -> None:
    """Print the plan that POLICY makes for the loads in a file.

    The file holds token copies per expert: a list [experts], [layers, experts] or [layers, devices,
    experts]; in CSV one line per layer. KEY is placement.NAME or dispatch.NAME.
    """
    import numpy as np

    from moesim.policies import create_policy
    from moesim.policies.base import ClusterView
    from moesim.routing.load import Load

    counts = _read_counts(loads_file, devices)
    if devices % nodes:
        message = f"{devices} devices cannot be spread evenly over {nodes} nodes"
        raise InputError(message, hint="choose a number of nodes that divides the devices")
    load = Load(counts, _tokens(counts, devices))
    view = ClusterView(
        devices=devices,
        node_of=np.repeat(np.arange(nodes), devices // nodes),
        experts=load.experts,
        top_k=1,
        expert_bytes=1,
        token_bytes=1,
        expert_groups=groups,
    )
    chosen = create_policy(_spec(policy, pairs))
    placement = chosen.placement.place(load.per_expert, view)
    made = chosen.dispatch.plan(load, placement, view)
    answer = _answer(chosen.name, load, placement, made)
    if as_json:
        print_json(answer)
    else:
        _print(answer)


def _spec(policy: str, pairs: tuple[str, ...]) -> dict[str, Any]:
    """Merge parameters into a preset."""
    from moesim import yamlio
    from moesim.errors import unknown_name
    from moesim.policies import policy_presets

    presets = policy_presets()
    if policy not in presets:
        raise unknown_name("policy", policy, presets)
    spec: dict[str, Any] = {
        "name": policy,
        **{part: {"kind": presets[policy][part]} for part in ("placement", "dispatch")},
    }
    for pair in pairs:
        key, equals, text = pair.partition("=")
        part, dot, name = key.partition(".")
        if not equals or not dot or part not in ("placement", "dispatch"):
            message = f"'{pair}' is not of the form placement.NAME=VALUE or dispatch.NAME=VALUE"
            raise InputError(message)
        spec[part][name] = yamlio.loads(text, file=f"--set {key}").data
    return spec


def _read_counts(file: str, devices: int) -> npt.NDArray[np.int64]:
    """Read counts of any accepted shape as [layers, sources, experts]."""
    import numpy as np

    path = Path(file)
    if path.is_file() and path.stat().st_size > MAX_LOAD_BYTES:
        message = f"{file} is larger than {MAX_LOAD_BYTES >> 20} MiB"
        raise InputError(message)
    try:
        if path.suffix == ".npy":
            raw = np.load(path, allow_pickle=False)
        elif path.suffix == ".csv":
            raw = np.loadtxt(path, delimiter=",", ndmin=2)
        else:
            raw = np.asarray(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, RecursionError) as error:
        message = f"{file} holds no table of counts: {error}"
        raise InputError(message, hint="expected numbers as .json, .csv or .npy") from None
    if raw.dtype.kind not in "iuf" or raw.size == 0 or raw.ndim > 3:
        message = (
            f"{file} must hold numbers of shape [experts], [layers, experts] or [layers, devices, experts]"
        )
        raise InputError(message, hint=f"got shape {list(raw.shape)} of {raw.dtype}")
    if not np.isfinite(raw).all() or (raw < 0).any() or (raw != np.floor(raw)).any() or (raw > 2**53).any():
        message = f"{file}: counts must be whole numbers from 0 to 2^53"
        raise InputError(message)
    counts = raw.astype(np.int64)
    if counts.ndim == 3 and counts.shape[1] not in (1, devices):
        message = f"{file} has {counts.shape[1]} source devices, --devices says {devices}"
        raise InputError(message)
    return counts if counts.ndim == 3 else np.atleast_2d(counts)[:, np.newaxis, :]


def _tokens(counts: npt.NDArray[np.int64], devices: int) -> npt.NDArray[np.int64]:
    """Return weights of the source devices: what they send, or even shares when only totals are known."""
    import numpy as np

    if counts.shape[1] == devices:
        return np.asarray(counts[0].sum(axis=1), dtype=np.int64)
    return np.ones(devices, dtype=np.int64)


def _answer(name: str, load: Load, placement: Placement, made: DispatchPlan) -> dict[str, Any]:
    """Return the plan as plain data."""
    rows, moves = made.assignments, made.moves
    copies = rows.per_device(load.layers, placement.devices)
    mean = copies.mean(axis=1)
    return {
        "policy": name,
        "placement": placement.slots.tolist(),
        "replicas": placement.replicas.tolist(),
        "assignments": [
            {"layer": a, "expert": b, "device": c, "copies": d}
            for a, b, c, d in zip(
                *(x.tolist() for x in (rows.layer, rows.expert, rows.device, rows.copies)), strict=True
            )
        ],
        "weight_moves": [
            {"layer": a, "expert": b, "from": c, "to": d}
            for a, b, c, d in zip(
                *(x.tolist() for x in (moves.layer, moves.expert, moves.source, moves.target)), strict=True
            )
        ],
        "traffic": made.traffic.dense().tolist(),
        "device_copies": copies.tolist(),
        "imbalance": [float(c.max() / m) if m else 1.0 for c, m in zip(copies, mean, strict=True)],
        "planned": [bool(p) for p in made.planned],
    }


def _print(answer: dict[str, Any]) -> None:
    """Print the plan layer by layer for reading."""
    for layer, slots in enumerate(answer["placement"]):
        click.echo(f"layer {layer}: largest over mean load {answer['imbalance'][layer]:.3f}")
        for device, experts in enumerate(slots):
            work = [
                f"{row['expert']}:{row['copies']}"
                for row in answer["assignments"]
                if row["layer"] == layer and row["device"] == device
            ]
            held = ",".join(str(expert) for expert in experts if expert >= 0)
            click.echo(
                f"  device {device}: holds [{held}] computes {answer['device_copies'][layer][device]} copies"
                f" (expert:copies {' '.join(work) or '-'})"
            )
        for move in answer["weight_moves"]:
            if move["layer"] == layer:
                click.echo(
                    f"  expert {move['expert']}: weights go from device {move['from']} to {move['to']}"
                )
