"""Settings of MoE-Lightning's evaluation that its model can be asked about.

S2, one L4: what the authors' policy search prints for it in the notes of their artifact: 24 GiB,
104 TFLOP/s (datasheet: 121 dense), 285 GiB/s (300 GB/s), a link of 16 GiB/s, and a host of 184 GiB, 76 GiB/s
and 1.6 TFLOP/s, of which 90 % of GPU and 80 % of CPU memory are used.

S1, one T4: no such notes. Datasheet: 16 GB, 320 GB/s, 65 TFLOP/s with tensor cores, PCIe 3; of these the
link as measured (12.3 GB/s, see ``pcie3`` of the catalogue), the others as printed. Its host is
taken to be that of S2: both have 48 virtual cores and 192 GB.
"""

from __future__ import annotations

from typing import Final

from moesim.policies.offload.lightning import Machine, Network

_GIB: Final = 1024.0**3

MIXTRAL_8X7B: Final = Network(
    layers=32, hidden=4096, intermediate=14336, heads=32, kv_heads=8, head=128, experts=8, top_k=2
)

S2_L4: Final = Machine(
    gpu_memory=0.9 * 24 * _GIB,
    cpu_memory=0.8 * 197880360960.0,
    gpu_bandwidth=285 * _GIB,
    cpu_bandwidth=76 * _GIB,
    link=16 * _GIB,
    gpu_flops=104e12,
    cpu_flops=1.6e12,
)

S1_T4: Final = Machine(
    gpu_memory=0.9 * 16 * _GIB,
    cpu_memory=S2_L4.cpu_memory,
    gpu_bandwidth=320e9,
    cpu_bandwidth=S2_L4.cpu_bandwidth,
    link=12.3e9,
    gpu_flops=65e12,
    cpu_flops=S2_L4.cpu_flops,
)
