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
# # Quickstart: EP, EPLB and LLEP on recorded routing
#
# Question: on one node with eight GPUs, how much do placement and dispatch policies help, and why? The
# routing is not invented: `traces/` ships the router decisions of a small language model over held-out
# text.
#
# Run it from the repository, or convert it: `jupytext --to ipynb notebooks/quickstart.py`.

# %%
from pathlib import Path

import moesim
from moesim.routing import RoutingTrace

here = Path.cwd()
root = here if (here / "scenarios").is_dir() else here.parent
scenario = moesim.load_scenario(root / "scenarios" / "demo.yaml", overrides=["workload.steps=2"])

# %% [markdown]
# ## The input: how uneven is the routing?
#
# `max_over_mean` is the busiest expert's load over the mean of its layer. With eight devices and blocks
# of four experts it is not the experts but their sum per device that makes others wait.
#
# The trace is short: a step of the demo has 131,072 tokens, so it replays the evaluated three quarters
# of the trace about four times. The skew is real; how it changes from step to step is not shown here.

# %%
import pandas as pd

trace = RoutingTrace.open(root / "traces" / "pystdlib-moe-6x32")
facts = trace.info()
print(f"{facts['tokens']} tokens, {facts['experts']} experts, top-{facts['top_k']}, tasks {facts['tasks']}")
pd.DataFrame(facts["per_layer"])

# %% [markdown]
# ## Compare
#
# Every policy sees the same tokens. EPLB places experts by what it saw in the first quarter of the trace;
# LLEP decides anew in each layer of each step.

# %%
comparison = moesim.compare(scenario, policies=["ep", "eplb", "llep"])
columns = ["latency_s", "speedup", "imbalance", "bound_fraction", "peak_memory_bytes", "memory_ratio"]
comparison.table[columns]

# %%
comparison.plot()

# %% [markdown]
# ## Why
#
# `changes` has the seconds that each cause gained or lost against the baseline; `explain()` says the same
# in words. The breakdown is a mean over devices, so balance shows as less `wait`: the mean of the expert
# time stays, its maximum falls.

# %%
print("\n".join(comparison.explain()))

# %%
changes = comparison.changes
changes.pivot(index="cause", columns="policy", values="change_s").mul(1e3).round(2)

# %% [markdown]
# ## How far from the best possible?
#
# No policy can be faster than the bound: perfect balance, every active expert's weights read once, no
# latencies, no planning. Here a device has room for all experts, so the bound needs no network either. What
# is left above it is what a better policy could still win, at most.

# %%
table = comparison.table
pd.DataFrame(
    {"latency_ms": table.latency_s * 1e3, "bound_ms": table.bound_s * 1e3, "share": table.bound_fraction}
)

# %% [markdown]
# ## Which layers, which devices?
#
# The trace has 6 layers and the model 24, so each recorded layer stands in for four.

# %%
ep = comparison["ep"]
ep.layers.nlargest(5, "wait_s")[["step", "layer", "imbalance", "straggler", "wait_s"]]

# %%
comparison.plot_load()

# %% [markdown]
# ## Memory
#
# Every byte has an owner. Imbalance costs memory too: the busiest device needs the largest receive
# buffers.

# %%
fullest = {}
for result in comparison.results:
    memory = result.memory
    device = memory.loc[memory.peak_bytes.idxmax(), "device"]
    fullest[result.policy] = memory[memory.device == device].set_index("owner")["bytes"] / 2**30
pd.DataFrame(fullest).round(2)

# %% [markdown]
# ## One layer, second by second
#
# Spans are recorded for the first step. The same data opens in https://ui.perfetto.dev from the saved
# timeline.

# %%
slowest = int(ep.layers.loc[ep.layers.wait_s.idxmax(), "layer"])
ep.plot_layer(slowest, step=0, devices=4)

# %%
comparison["llep"].plot_layer(slowest, step=0, devices=4)

# %% [markdown]
# ## Change one thing
#
# LLEP's planning time is that of its research code, 45 us per expert and layer. What if the planner were
# one kernel of 50 us?

# %%
fast = {
    "name": "llep_fast",
    "placement": "contiguous",
    "dispatch": {"kind": "llep", "planning_per_expert_s": 0, "planning_fixed_s": 50e-6},
}
import json

overrides = ["workload.steps=2", f"policies=[ep, llep, {json.dumps(fast)}]"]
again = moesim.compare(moesim.load_scenario(root / "scenarios" / "demo.yaml", overrides=overrides))
again.table[["latency_s", "speedup", "planning_s"]]

# %% [markdown]
# ## Keep it
#
# `save` writes tables, plots, the resolved scenario, the versions, a timeline and a report of one page.

# %%
import tempfile

with tempfile.TemporaryDirectory() as folder:
    saved = again.save(Path(folder) / "run")
    print(*sorted(path.name for path in saved.iterdir()))
