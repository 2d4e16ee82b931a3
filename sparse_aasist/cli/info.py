"""`sparse-aasist info`: versions, build, devices, and which backend each op uses."""

from __future__ import annotations

import argparse

HELP = "show versions, build, devices and the backend of each op"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take no arguments."""


def run(_arguments: argparse.Namespace) -> int:
    """Print the report."""
    from sparse_aasist.info import main_text

    print(main_text())
    return 0
