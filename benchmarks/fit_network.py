"""Fit the constants of collectives and of expert-parallel exchange to the measured tables.

Run ``python benchmarks/fit_network.py > moesim/hardware/data/collectives.yaml`` with the extra ``measured``
installed. What is fitted, on what, and from which date stands in the header that it prints.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from moesim.accuracy.collectives import FAMILIES, fit_collective
from moesim.accuracy.ep import fit_exchange
from moesim.hardware.network_constants import node_links
from moesim.measured.ep_tables import exchanges
from moesim.measured.rows import thin

HEADER = """\
# Links of measured systems and the constants of the size-dependent network models. Times in seconds, rates in
# bytes/s, the rest without a unit; what each means stands beside it in moesim.hardware.protocols and
# moesim.hardware.expert_exchange.
# Link rates: datasheets, one direction (sources as in clusters_nvidia.yaml). `island`: devices without shared
# bridges. NIC: 400 Gb/s; NCCL's maintainers call 46 to 49 GB/s usable.
# Constants: fitted by benchmarks/fit_network.py to all rows of aiconfigurator-core 0.12.0 (2026-08,
# Apache-2.0): collectives to comm/nccl (nccl-tests, 1 KiB to 512 MiB), low_latency and normal to comm/sglang
# (DeepEP), rack to comm/trtllm (balanced, EP2 to EP64). Terms that only act between nodes come from the one
# multi-node table (H100). H800 has the constants of H100 (same chip and kernels) behind its own slower link;
# low-latency kernels copy on H100 at a pace of their own (276 and 214 GB/s), which H800's link does not
# reach: there they are given what normal kernels take from a link. GB300 has those of GB200 for a rack's.
# How far predictions are off when fitted without the rows they are scored on: `moesim accuracy`.
"""

LINKS: Mapping[str, str] = {
    "A100-SXM-80GB": "{kind: nvlink, rate: 300e9, domain: 8}",
    "H100-SXM": "{kind: nvlink, rate: 450e9, domain: 8}",
    "H800-SXM": "{kind: nvlink, rate: 200e9, domain: 8}",
    "H200-SXM": "{kind: nvlink, rate: 450e9, domain: 8}",
    "B200-SXM": "{kind: nvlink, rate: 900e9, domain: 8}",
    "B300-SXM": "{kind: nvlink, rate: 900e9, domain: 8}",
    "GB200": "{kind: nvlink, rate: 900e9, domain: 4}",
    "GB300": "{kind: nvlink, rate: 900e9, domain: 4}",
    "L40S": "{kind: pcie, rate: 32e9, domain: 8, island: 2}",
    "RTX-PRO-6000": "{kind: pcie, rate: 64e9, domain: 8, island: 2}",
}
TWINS = {"H800-SXM": "H100-SXM"}
RACK_TWINS = {"GB300": "GB200"}
BETWEEN_NODES = ("doubling_s", "relay", "drain_s", "ramp_s")
MULTI_NODE = "H100-SXM"


def show(section: str, fitted: dict[str, dict[str, float]]) -> None:
    print(f"  {section}:")
    twins = RACK_TWINS if section.startswith("rack") else TWINS
    for twin, device in twins.items():
        if device in fitted:
            fitted.setdefault(twin, fitted[device])
    for device in LINKS:
        if device in fitted:
            values = ", ".join(f"{name}: {value:.3g}" for name, value in fitted[device].items())
            print(f"    {device}: {{{values}}}")


def exchange(kernel: str, direction: str) -> dict[str, dict[str, float]]:
    fitted: dict[str, dict[str, float]] = {}
    for device in LINKS:
        if device in TWINS:
            continue
        rows = exchanges(direction, device)
        if len(rows):
            software = "NVLinkTwoSided" if kernel == "rack" else "sglang"
            rows = rows[(rows["kernel"] == kernel) & rows["backend"].str.contains(software)]
            rows = rows[~rows["backend"].str.contains("low_precision")]
        if not len(rows):
            continue
        parts = [thin(part, 1000) for _, part in rows.groupby("backend")]
        fitted[device] = fit_exchange(
            kernel, pd.concat(parts, ignore_index=True).assign(device=device)
        ).values()
    for device, values in fitted.items():
        if kernel != "rack" and device != MULTI_NODE:
            values.update({name: fitted[MULTI_NODE][name] for name in BETWEEN_NODES if name in values})
    return fitted


if __name__ == "__main__":
    print(HEADER + "links:")
    for name, link in LINKS.items():
        print(f"  {name}: {link}")
    print("nic: {rate: 47e9}\nconstants:")
    for family in FAMILIES:
        tables = {device: family.measured(device) for device in LINKS if device not in TWINS}
        found = {d: fit_collective(family.name, table).values() for d, table in tables.items() if len(table)}
        show(family.name, found)
    for kernel in ("low_latency", "normal", "rack"):
        for direction in ("dispatch", "combine"):
            constants = exchange(kernel, direction)
            if kernel == "low_latency":
                for twin, device in TWINS.items():
                    bound = exchange("normal", direction)[device]["nvlink"]
                    pace = constants[device]["nvlink"] * node_links(twin).rate / node_links(device).rate
                    constants[twin] = {**constants[device], "nvlink": max(bound, pace)}
            show(f"{kernel}_{direction}", constants)
