"""The command group, and what happens when something goes wrong."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from moesim import __version__
from moesim.cli.accuracy import accuracy
from moesim.cli.compare import compare_policies
from moesim.cli.lists import list_group, schema
from moesim.cli.plan import plan
from moesim.cli.reproduce import reproduce
from moesim.cli.simulate import simulate
from moesim.cli.trace import trace
from moesim.errors import MoesimError


class _Group(click.Group):
    """Turns errors meant for people into one message and exit status 2."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except MoesimError as error:
            click.echo(f"moesim: {error}", err=True)
            ctx.exit(2)
        except BrokenPipeError:
            # The reader (head, less) has gone; keep the interpreter from complaining at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(1)
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            click.echo(f"moesim: {place}{error.strerror or error}", err=True)
            ctx.exit(2)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="moesim")
def main() -> None:
    """Simulate Mixture-of-Experts clusters: which policy helps my model on my hardware, and why.

    Start with: moesim compare-policies scenarios/demo.yaml
    """


for _command in (simulate, compare_policies, reproduce, accuracy, plan, list_group, schema, trace):
    main.add_command(_command)
