"""The command group."""

from __future__ import annotations

import click

from moesim import __version__
from moesim.cli.accuracy import accuracy
from moesim.cli.calibrate import calibrate
from moesim.cli.compare import compare_policies
from moesim.cli.group import MoesimGroup
from moesim.cli.layouts import compare_layouts
from moesim.cli.lists import list_group, schema
from moesim.cli.plan import plan
from moesim.cli.reproduce import reproduce
from moesim.cli.simulate import simulate
from moesim.cli.trace import trace
from moesim.cli.tune import tune


@click.group(
    "moesim",
    cls=MoesimGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="moesim", message="%(prog)s %(version)s")
def main() -> None:
    """Simulate Mixture-of-Experts clusters: which policy helps my model on my hardware, and why.

    Start with: moesim compare-policies scenarios/demo.yaml
    """


_COMMANDS = (
    *(simulate, compare_policies, compare_layouts, tune, reproduce, accuracy),
    *(calibrate, plan, list_group, schema, trace),
)

for _command in _COMMANDS:
    main.add_command(_command)
