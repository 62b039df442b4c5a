"""``moesim plan``: the plan a policy makes for given loads, without simulating anything."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

import click

from moesim.cli.options import json_option, read_pairs, set_option
from moesim.cli.output import print_json
from moesim.errors import InputError, unknown_name

if TYPE_CHECKING:
    from moesim.policies.plan import DispatchPlan, Placement
    from moesim.routing.load import Load

MAX_PAIRS: Final = 2**24
"""Largest number of (layer, source, target) entries of the traffic that is printed."""


@click.command(short_help="Print the plan a policy makes for given loads.")
@click.argument("policy")
@click.option(
    "--loads",
    "loads_file",
    type=click.Path(),
    metavar="FILE",
    required=True,
    help="Token copies per expert as .json, .csv or .npy.",
)
@click.option(
    "--devices", type=click.IntRange(1, 4096), metavar="N", required=True, help="Number of devices."
)
@click.option("--nodes", type=click.IntRange(1, 4096), metavar="N", default=1, help="Number of nodes [1].")
@click.option(
    "--groups", type=click.IntRange(1, 4096), metavar="N", default=1, help="Routing groups of the model [1]."
)
@set_option("A parameter of the policy.")
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
    """Print the plan that POLICY (a preset, see 'moesim list policies') makes for the loads in a file.

    The file holds token copies per expert: a list [experts], [layers, experts] or [layers, devices,
    experts]; in CSV one line per layer. KEY is placement.NAME or dispatch.NAME.
    """
    import numpy as np

    from moesim.cli.load_files import read_counts
    from moesim.policies import create_policy
    from moesim.policies.base import ClusterView
    from moesim.routing.load import Load

    chosen = create_policy(_spec(policy, pairs))
    if devices % nodes:
        message = f"{devices} devices cannot be spread evenly over {nodes} nodes"
        raise InputError(message, hint="choose a number of nodes that divides the devices")
    counts = read_counts(loads_file, devices)
    if counts.shape[0] * devices**2 > MAX_PAIRS:
        message = f"a plan of {counts.shape[0]} layers on {devices} devices is too long to print"
        raise InputError(message, hint="give fewer layers or devices")
    if counts.shape[1] == devices:
        weights = np.asarray(counts[0].sum(axis=1), dtype=np.int64)
    else:
        weights = np.ones(devices, dtype=np.int64)  # only totals are known: even shares
    load = Load(counts, weights)
    view = ClusterView(
        devices=devices,
        node_of=np.repeat(np.arange(nodes), devices // nodes),
        experts=load.experts,
        top_k=1,
        expert_bytes=1,
        token_bytes=1,
        expert_groups=groups,
    )
    placement = chosen.placement.place(load.per_expert, view)
    answer = _answer(chosen.name, load, placement, chosen.dispatch.plan(load, placement, view))
    if as_json:
        print_json(answer)
    else:
        _print(answer)


def _spec(policy: str, pairs: tuple[str, ...]) -> dict[str, Any]:
    """Merge parameters into a preset."""
    from moesim.policies import policy_presets

    presets = policy_presets()
    if policy not in presets:
        raise unknown_name("policy", policy, presets)
    spec: dict[str, Any] = {"name": policy}
    given = read_pairs(pairs, "dispatch.alpha=1.1")
    for part, values in given.items():
        if part not in ("placement", "dispatch") or not isinstance(values, dict) or "kind" in values:
            message = f"'{part}' is not a parameter of policy '{policy}'"
            raise InputError(message, "--set", hint="write placement.NAME=VALUE or dispatch.NAME=VALUE")
    for part in ("placement", "dispatch"):
        spec[part] = {"kind": presets[policy][part], **given.get(part, {})}
    return spec


def _answer(name: str, load: Load, placement: Placement, made: DispatchPlan) -> dict[str, Any]:
    """Return the plan as plain data."""
    rows, moves = made.assignments, made.moves
    copies = rows.per_device(load.layers, placement.devices)
    mean = copies.mean(axis=1)
    assigned = zip(*(x.tolist() for x in (rows.layer, rows.expert, rows.device, rows.copies)), strict=True)
    moved = zip(*(x.tolist() for x in (moves.layer, moves.expert, moves.source, moves.target)), strict=True)
    return {
        "policy": name,
        "placement": placement.slots.tolist(),
        "replicas": placement.replicas.tolist(),
        "assignments": [
            {"layer": layer, "expert": expert, "device": device, "copies": count}
            for layer, expert, device, count in assigned
        ],
        "weight_moves": [
            {"layer": layer, "expert": expert, "from": source, "to": target}
            for layer, expert, source, target in moved
        ],
        "traffic": made.traffic.dense().tolist(),
        "device_copies": copies.tolist(),
        "imbalance": [float(c.max() / m) if m else 1.0 for c, m in zip(copies, mean, strict=True)],
        "planned": [bool(p) for p in made.planned],
        "notes": list(placement.notes),
    }


def _print(answer: dict[str, Any]) -> None:
    """Print the plan layer by layer for reading."""
    work: dict[tuple[int, int], list[str]] = defaultdict(list)
    for row in answer["assignments"]:
        work[row["layer"], row["device"]].append(f"{row['expert']}:{row['copies']}")
    moves: dict[int, list[str]] = defaultdict(list)
    for move in answer["weight_moves"]:
        moves[move["layer"]].append(f"  weights of expert {move['expert']}: {move['from']} -> {move['to']}")
    lines = [f"policy {answer['policy']}; work is written as expert:copies"]
    for layer, slots in enumerate(answer["placement"]):
        lines.append(f"layer {layer}: largest over mean load {answer['imbalance'][layer]:.3f}")
        for device, experts in enumerate(slots):
            held = ",".join(str(expert) for expert in experts if expert >= 0)
            done = " ".join(work[layer, device]) or "nothing"
            count = answer["device_copies"][layer][device]
            lines.append(f"  device {device} holds [{held}], computes {count}: {done}")
        lines += moves[layer]
    lines += [f"note: {note}" for note in answer["notes"]]
    click.echo("\n".join(lines))
