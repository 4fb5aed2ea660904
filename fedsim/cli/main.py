"""The command line. Every command takes or makes run folders; bad input is one line and exit code 2.

A command is one file of this package. It adds itself to `app`, and is named in the imports below, whose order is that
of `fedsim --help`.
"""

from __future__ import annotations

import io
import sys
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
    for stream in (sys.stdout, sys.stderr):  # a terminal that is not UTF-8 gets ? for what it cannot show
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
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
        except KeyboardInterrupt:  # before a command had begun
            _fail("interrupted", Interrupted.exit_code, heard)
        if code == Interrupted.exit_code:  # what typer makes of Ctrl-C
            _fail("interrupted", code, heard)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int, heard: Heard) -> None:
    line = printable(" ".join(message.split()))
    sys.stderr.write(f"error: {line}\n")
    sys.exit(128 + heard.ending if heard.ending and code == Interrupted.exit_code else code)
