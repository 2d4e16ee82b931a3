"""`write_report`: gather, lay out and write."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from sparse_aasist.files import write_text
from sparse_aasist.report.console import print_gist
from sparse_aasist.report.content import Section
from sparse_aasist.report.facts import Facts, gather
from sparse_aasist.sweep.collect import Collection
from sparse_aasist.sweep.tables import write_csv

if TYPE_CHECKING:
    from rich.console import Console


def write_report(collection: Collection, *, console: Console) -> Path:
    """Write report.html, results.csv and configurations.csv of a sweep, and print the gist.

    Args:
        collection: the finished runs.
        console: for progress, the grid and the verdicts.

    Returns:
        The path of report.html. Analyses that are made on the way stay in the folders of the runs.

    Raises:
        SparseAasistError: embeddings, scores, trials or a record of a run do not fit or cannot be
            read; names the file.
        OSError: a file cannot be written.
    """
    from rich.progress import track

    def shown(items: Iterable, description: str) -> Iterable:
        return track(items, description, console=console)

    facts = gather(collection, shown)
    folder = collection.folder
    write_csv(folder.results, facts.runs)
    write_csv(folder.configurations, facts.configurations)
    path = folder.path / "report.html"
    write_text(path, render(facts))
    print_gist(facts, console)
    for file in (path, folder.results, folder.configurations):
        console.print(f"wrote {file}", soft_wrap=True, markup=False, highlight=False)
    return path


def render(facts: Facts) -> str:
    """Return the page."""
    from jinja2 import Environment, StrictUndefined

    template = resources.files(__package__).joinpath("template.html.j2")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    # A percent sign does not stand alone at the start of a line.
    environment.filters["bind_units"] = lambda text: text.replace(" %", "\N{NO-BREAK SPACE}%")
    page = environment.from_string(template.read_text(encoding="utf-8"))
    return page.render(
        title="Sparse and dense embeddings of a fake-speech detector",
        folder=facts.collection.folder.path.resolve().name,
        sections=_sections(facts),
    )


def _sections(facts: Facts) -> list[Section]:
    from sparse_aasist.report import closing, dimensions, encoding, outcome, rates, setup, space

    return [
        setup.what_was_run(facts),
        outcome.verdicts(facts),
        outcome.grid(facts),
        rates.against_k(facts),
        rates.by_attack(facts),
        encoding.exceeding(facts),
        encoding.scores(facts),
        encoding.heat_map(facts),
        dimensions.single_dimensions(facts),
        encoding.other_factors(facts),
        space.usage(facts),
        rates.trade_off(facts),
        space.embedding_map(facts),
        rates.by_codec(facts),
        closing.how_to_read(facts),
    ]
