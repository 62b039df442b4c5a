"""The outermost command: whatever goes wrong becomes one message and an exit status.

0: done. 1: a fault of moesim, or the reader of a pipe has gone. 2: the input cannot be used.
130: interrupted.
"""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from typing import Any, NoReturn, TextIO

import click

from moesim.errors import MoesimError, PluginWarning

_TRACEBACK = "MOESIM_TRACEBACK"


class MoesimGroup(click.Group):
    """A group whose commands end without a traceback."""

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Run the command line and end the process."""
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                # A name that the terminal's character set lacks is no reason to fail.
                stream.reconfigure(errors="backslashreplace")
        kwargs["standalone_mode"] = False
        with warnings.catch_warnings():
            if not sys.warnoptions:
                warnings.simplefilter("ignore")
                warnings.simplefilter("default", PluginWarning)
                warnings.showwarning = _warn
            try:
                status = super().main(*args, **kwargs)
            except click.ClickException as error:
                status = _usage(error)
        sys.exit(status if isinstance(status, int) else 0)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except MoesimError as error:
            _tell(str(error))
            ctx.exit(2)
        except BrokenPipeError:
            _drop_output()
            ctx.exit(1)
        except OSError as error:
            if error.filename is None:
                _drop_output()  # most likely what could not be written to
            _tell(f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error))
            ctx.exit(2)
        except KeyboardInterrupt:
            _tell("interrupted")
            ctx.exit(130)
        except MemoryError:
            _tell("this machine has not enough memory for that; try fewer devices, layers or tokens")
            ctx.exit(2)
        except Exception as error:  # a fault of ours: say so, and keep the traceback for whoever asks
            if os.environ.get(_TRACEBACK):
                traceback.print_exc()
            _tell(
                f"internal error, please report it: {type(error).__name__}: {error} "
                f"({_TRACEBACK}=1 shows where)"
            )
            ctx.exit(1)


def _usage(error: click.ClickException) -> int:
    """Tell on one line what is wrong with the command line."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return 2
    ctx = getattr(error, "ctx", None)
    text = error.format_message().rstrip(".")
    path = ctx.command_path if ctx is not None else "moesim"
    if ctx is not None and isinstance(ctx.command, click.Group) and "Did you mean" not in text:
        text += f"; there are {', '.join(ctx.command.list_commands(ctx))}"
    click.echo(f"{path}: {text} (see '{path} --help')", err=True)
    return 2


def _tell(message: str) -> None:
    """Print a message on stderr; what could steer a terminal is shown instead of sent."""
    shown = "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in message)
    click.echo(f"moesim: {shown}", err=True)


def _warn(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print a warning meant for people without the line of code it comes from."""
    _tell(f"warning: {message}")


def _drop_output() -> None:
    """Send what is still to be written to nowhere, so that the interpreter does not complain at exit."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        return
