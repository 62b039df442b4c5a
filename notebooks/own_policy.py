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
# # Your own policy
#
# A placement policy gets past token counts and says which device holds which expert. This notebook writes
# one, checks that it keeps the contract, and runs it against EP and EPLB on the shipped trace.
#
# The policy: sort experts by past load and deal them out back and forth (*snake*). The hottest expert
# ends up beside the coldest. It needs no extra memory, unlike EPLB.

# %%
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
from pydantic import Field

import moesim
from moesim.policies.base import ClusterView, Parameters, Policy
from moesim.policies.plan import Placement


class SnakeParameters(Parameters):
    """Parameters of the snake placement."""

    coldest_first: bool = Field(default=False, description="deal the coldest expert first")


@dataclass(frozen=True)
class Snake:
    """Experts by past load, dealt to the devices back and forth."""

    parameters: SnakeParameters = field(default_factory=SnakeParameters)
    name: ClassVar[str] = "snake"
    summary: ClassVar[str] = "experts by past load, dealt to the devices back and forth"
    source: ClassVar[str] = "this notebook"
    parameters_type: ClassVar[type[Parameters]] = SnakeParameters

    def place(self, statistics: np.ndarray, view: ClusterView) -> Placement:
        """Place experts given past copies per expert, [layers, experts]."""
        order = np.argsort(-statistics, axis=1, kind="stable")
        if self.parameters.coldest_first:
            order = order[:, ::-1]
        rounds = -(-view.experts // view.devices)
        dealt = np.full((len(statistics), rounds * view.devices), -1)  # -1 is an empty slot
        dealt[:, : view.experts] = order
        dealt = dealt.reshape(-1, rounds, view.devices)
        dealt[:, 1::2] = dealt[:, 1::2, ::-1]
        return Placement(np.ascontiguousarray(dealt.transpose(0, 2, 1)), view.experts)


# %% [markdown]
# ## Does it keep the contract?
#
# The checks try one device, one expert, empty batches, numbers that do not divide, little memory. They
# require a pure, deterministic policy whose every expert has a home. Silence means that it passed.

# %%
from moesim.testing import check_placement_policy

check_placement_policy(Snake())

# %% [markdown]
# A policy that is wrong is told so, with the case and the fault:


# %%
@dataclass(frozen=True)
class Forgetful(Snake):
    """Writes into the statistics that it was given."""

    name: ClassVar[str] = "forgetful"

    def place(self, statistics: np.ndarray, view: ClusterView) -> Placement:
        """Spoil the input, then place."""
        statistics[:] = 0
        return super().place(statistics, view)


try:
    check_placement_policy(Forgetful())
except (AssertionError, ValueError) as fault:
    print(fault)

# %% [markdown]
# ## Look at what it decides, without a simulator

# %%
view = ClusterView(
    devices=4, node_of=np.zeros(4, dtype=int), experts=8, top_k=2, expert_bytes=1, token_bytes=1
)
past = np.array([[90, 70, 50, 40, 30, 20, 10, 0]])
slots = Snake().place(past, view).slots[0]
pd.DataFrame({"experts": slots.tolist(), "past load": past[0][slots].sum(axis=1)}).rename_axis("device")

# %% [markdown]
# ## Run it
#
# A scenario names policies by their entry point, so an installed package needs nothing of what follows.
# From Python a policy object does as well.

# %%
from moesim.policies import create_dispatch

here = Path.cwd()
root = here if (here / "scenarios").is_dir() else here.parent
scenario = moesim.load_scenario(root / "scenarios" / "demo.yaml", overrides=["workload.steps=2"])

snake = Policy("snake", Snake(), create_dispatch("standard"))
comparison = moesim.compare(scenario, policies=["ep", snake, "eplb"])
comparison.table[["latency_s", "speedup", "imbalance", "bound_fraction", "memory_ratio"]]

# %%
print("\n".join(comparison.explain()))

# %%
comparison.plot_load()

# %% [markdown]
# ## Ship it
#
# In your package's `pyproject.toml`:
#
# ```toml
# [project.entry-points."moesim.placement"]
# snake = "my_package.snake:Snake"
# ```
#
# After `pip install`, `moesim list policies` shows it, and a scenario can say `policies: [ep, {name:
# snake, placement: snake}]`. See docs/adding-a-policy.md.
