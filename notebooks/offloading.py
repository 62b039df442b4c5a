# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Which offloading policy for my machine?
#
# A model that does not fit on the GPU can keep its experts in host memory. Many systems do so, each with
# another cache, another way to guess what comes next, another use of the CPU. Which of them suits a
# machine depends on three rates: how fast the link brings an expert, how fast the CPU computes one, and
# how well a cache of the size that is left guesses. This notebook asks for one machine, a laptop; change
# the scenario to make it yours.
#
# The routing is recorded (see `docs/traces.md`), no parameter of a generator was chosen.

# %%
import json
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

import moesim

here = Path.cwd()
root = here if (here / "scenarios").is_dir() else here.parent
FILE = root / "scenarios" / "offload-laptop-recorded.yaml"
SHORT = ["workload.requests.output=32"]
scenario = moesim.load_scenario(FILE, overrides=SHORT)
print(scenario.description)

# %% [markdown]
# ## The machine in three numbers
#
# One token, one expert: the time that the link needs to bring it, the CPU to compute it, the GPU to
# compute it.

# %%
from moesim.engine.offload.loader import Loader
from moesim.engine.offload.prices import OffloadPrices
from moesim.scenario.build import build_policies, build_setup

setup = build_setup(scenario, build_policies(scenario)[0])
size = float(setup.expert_bytes.max())
prices = OffloadPrices(setup, setup.expert_bytes * 0 + 1)
seconds = {
    "bring it over the link": Loader(setup.cluster, "host", True, size).alone(0, size),
    "compute it on the CPU": prices.cpu(0, 1),
    "compute it on the GPU": prices.experts(0, 0, (1,)),
}
print(f"{setup.model.experts} experts of {size / 1e6:.1f} MB in each of {len(setup.model.moe_layers)} layers")
pd.Series(seconds, name="ms").mul(1e3).round(2).to_frame()

# %% [markdown]
# Here the CPU takes less time than the link, so a system that never uses it starts with a handicap.
#
# ## Compare systems
#
# All see the same tokens and the same memory. `good_pred` is the share of prefetches that were needed and
# came in time, `wasted_share` that of prefetched bytes nobody needed.

# %%
comparison = moesim.compare(scenario)
columns = [
    *("ttft_s", "tpot_s", "decode_tokens_per_s", "hit_rate", "cpu_share", "load_wait_share"),
    *("wasted_share", "good_pred", "energy_j_per_token"),
]
comparison.table[columns].astype(float).round(3)

# %%
comparison.plot_breakdown()

# %%
comparison.plot_lookups()

# %%
print("\n".join(comparison.explain()))

# %% [markdown]
# ## How much memory is worth having?
#
# The cache holds a share of the experts, from what the smallest cache needs up to all of them. Hit rates
# rise alike for every policy that keeps what it loads; what a miss costs is what tells systems apart.

# %%
RATIOS = (0.15, 0.25, 0.35, 0.5, 0.7, 0.85)
SYSTEMS = ("on_demand", "fmoe", "hybrimoe", "ktransformers")


def variants(settings: dict[str, dict]) -> moesim.Comparison:
    """Compare offloading policies that are written out, name by name."""
    policies = [{"name": name, "offload": offload} for name, offload in settings.items()]
    # JSON is YAML, too. The machine gets a larger card, so that all caches fit.
    roomy = ["cluster.device.memory.capacity=24 GB", f"policies={json.dumps(policies)}"]
    return moesim.compare(moesim.load_scenario(FILE, overrides=[*SHORT, *roomy]))


swept = variants(
    {f"{system} {ratio}": {"system": system, "ratio": ratio} for system in SYSTEMS for ratio in RATIOS}
).table
swept["system"], swept["ratio"] = zip(*(name.split() for name in swept.index), strict=True)
swept["ratio"] = swept["ratio"].astype(float)
swept["memory_gb"] = swept["peak_memory_bytes"] / 1e9
swept.pivot(index="ratio", columns="system", values="decode_tokens_per_s").round(1)

# %%
COLOURS = dict(zip(SYSTEMS, ("#616e7c", "#f0a202", "#1b5e9b", "#4f8a3c"), strict=True))
figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
for system, rows in swept.groupby("system", sort=False):
    look = {"color": COLOURS[system], "marker": "o", "ms": 4, "label": system}
    axes[0].plot(100 * rows["ratio"], 100 * rows["hit_rate"], **look)
    axes[1].plot(rows["memory_gb"], rows["decode_tokens_per_s"], **look)
axes[0].plot([0, 100], [0, 100], color="#9aa5b1", ls=":", label="guessing")
axes[0].set(xlabel="experts in the cache (%)", ylabel="hits (%)", xlim=(0, 100), ylim=(0, 100))
axes[0].set_title("What a cache finds")
axes[1].axvline(8, color="#c1121f", lw=1)
axes[1].annotate("this card", (8, 0), (4, 6), textcoords="offset points", color="#c1121f", fontsize=9)
axes[1].set(xlabel="memory at the peak (GB)", ylabel="tokens/s, decoding", ylim=(0, None))
axes[1].set_title("What it is worth")
axes[0].legend(frameon=False)
for one in axes:
    one.spines[["top", "right"]].set_visible(False)

# %% [markdown]
# ## What is a better prediction worth?
#
# Prefetching helps only if the guess is right *and* the link has time to spare. `oneshot` predicts all
# layers before the first one, at an accuracy that is given; nothing else changes. Two links: the
# laptop's, and one four times as fast.

# %%
ACCURACIES = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)
guessed = {
    f"{accuracy}": {"prefetch": {"kind": "oneshot", "accuracy": accuracy}, "compute": "arrival"}
    for accuracy in ACCURACIES
}
policies = [{"name": "none", "offload": {"compute": "arrival"}}]
policies += [{"name": name, "offload": offload} for name, offload in guessed.items()]
figure, axes = plt.subplots(figsize=(6.5, 3.6), layout="constrained")
for link, words, colour in (("pcie4-x8", "PCIe 4 x8", "#1b5e9b"), ("pcie5", "PCIe 5 x16", "#f0a202")):
    changes = [f"cluster.host.link={link}", f"policies={json.dumps(policies)}"]
    table = moesim.compare(moesim.load_scenario(FILE, overrides=[*SHORT, *changes])).table
    rates = table["decode_tokens_per_s"].drop("none")
    axes.plot([100 * one for one in ACCURACIES], rates, color=colour, marker="o", ms=4, label=words)
    axes.axhline(table.loc["none", "decode_tokens_per_s"], color=colour, ls=":", lw=1.2)
axes.set(xlabel="experts predicted right (%)", ylabel="tokens/s, decoding", ylim=(0, None))
axes.set_title("Prediction against none (dotted)", loc="left")
axes.legend(frameon=False)
axes.spines[["top", "right"]].set_visible(False)

# %% [markdown]
# ## One token, step by step
#
# Three layers of the first decoded token: what the GPU, the CPU and the link do. Dark copies are awaited,
# pale ones are prefetched.

# %%
comparison["hybrimoe"].plot_layer(layer=8, layers=3)

# %%
comparison["on_demand"].plot_layer(layer=8, layers=3)

# %% [markdown]
# ## Your machine
#
# Copy the scenario, write your device, link, memory and processor into `cluster` (docs/hardware.md), and
# run `moesim compare-policies yours.yaml`. What is simulated and what is not: docs/offloading.md.
