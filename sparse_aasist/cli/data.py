"""Which data directory a command uses when none is named."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console


def corpus_or(data: Path | None, console: Console) -> Path:
    """Return `data`, or the small real corpus, which is built first where it is absent."""
    if data is not None:
        return data
    from sparse_aasist.corpus import build_corpus, default_corpus_dir

    out = default_corpus_dir()
    if not out.is_dir():
        console.print(f"no --data given and no corpus at {out}: building the small real corpus")
        build_corpus(out, console=console)
    return out
