"""The project's own sentences for the synthesizers: no two partitions share one."""

from __future__ import annotations

from importlib.resources import files


def partition_texts(partition: str) -> dict[str, list[str]]:
    """Return language code -> sentences of one partition ("train", "dev" or "eval")."""
    texts: dict[str, list[str]] = {}
    table = files("sparse_aasist.corpus").joinpath("texts.tsv").read_text(encoding="utf-8")
    for line in table.splitlines():
        language, owner, sentence = line.split("\t")
        if owner == partition:
            texts.setdefault(language, []).append(sentence)
    return texts
