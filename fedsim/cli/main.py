"""The command line. Every command reads or writes run folders. Bad input gives one line and exit code 2.

Each command is one file of this package. It adds itself to `app`, and the imports below name it. Their order is the
order in `fedsim --help`.
"""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Sequence

import click

from fedsim.cli import (  # noqa: F401 -- each adds its command
    attribute,
    evaluate,
    export,
    flower_app,
    init,
    listing,
    options,
    personalize,
    privacy,
    prune,
    receipts,
    report,
    run,
    show,
    sweep,
    table,
    undo,
    unlearn,
)
from fedsim.cli.app import Interrupted, app
from fedsim.cli.screen import printable
from fedsim.errors import FedsimError
from fedsim.interrupts import Heard, heeding_signals


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line, by default this process's, and exit: 0 done, 1 failed, 2 bad input, 128 + a signal."""
    for stream in (sys.stdout, sys.stderr):  # a terminal that is not UTF-8 shows ? for other characters
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    # Pydantic's warning that it has dropped an interrupt; the next round ends the run (`end_if_heard`).
    warnings.filterwarnings("ignore", "Pydantic serializer warnings", UserWarning)
    with heeding_signals() as heard:
        try:
            code = app(arguments, prog_name="fedsim", standalone_mode=False)
        except FedsimError as error:
            _fail(str(error), error.exit_code, heard)
        except click.UsageError as error:
            command = error.ctx.command_path if error.ctx else "fedsim"
            _fail(f"{error.format_message().rstrip('.')}; see: {command} --help", 2, heard)
        except click.ClickException as error:
            _fail(error.format_message(), 2, heard)
        except KeyboardInterrupt:  # before a command began
            _fail("interrupted", Interrupted.exit_code, heard)
        if code == Interrupted.exit_code:  # typer's exit code for Ctrl-C
            _fail("interrupted", code, heard)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int, heard: Heard) -> None:
    line = printable(" ".join(message.split()))
    sys.stderr.write(f"error: {line}\n")
    sys.exit(128 + heard.ending if heard.ending and code == Interrupted.exit_code else code)
