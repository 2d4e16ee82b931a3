"""The console command `sparse-aasist`: parse, call one library function, show its result."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from sparse_aasist.cli import (
    analyse,
    compare,
    corpus,
    evaluate,
    explain,
    info,
    report,
    sweep,
    train,
)
from sparse_aasist.errors import SparseAasistError

COMMANDS = {
    "train": train,
    "evaluate": evaluate,
    "analyse": analyse,
    "explain": explain,
    "compare": compare,
    "sweep": sweep,
    "report": report,
    "corpus": corpus,
    "info": info,
}
USER_ERROR, INTERRUPTED = 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    0; 1 when a run of a sweep has failed; 2 for a user's error; 130 if interrupted.
    """
    parser = argparse.ArgumentParser(prog="sparse-aasist", description="Detect fake speech.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        command = commands.add_parser(name, help=module.HELP, description=module.HELP)
        module.add_arguments(command)
    arguments = parser.parse_args(argv)
    try:
        return COMMANDS[arguments.command].run(arguments)
    except (SparseAasistError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
