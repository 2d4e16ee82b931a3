"""What a section of the report is made of; the template draws it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from markupsafe import Markup


@dataclass(frozen=True)
class Paragraph:
    """A paragraph; a loud one is framed, so that nobody reads past it."""

    text: str
    loud: bool = False
    kind: ClassVar[str] = "paragraph"


@dataclass(frozen=True)
class Table:
    """A table with its caption.

    words: number of leading columns that hold words; the others hold numbers.
    folded: what to call it when it is shown only on demand.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str
    words: int = 1
    folded: str | None = None
    kind: ClassVar[str] = "table"


@dataclass(frozen=True)
class Picture:
    """A figure as inline SVG, its caption and what it shows in words."""

    svg: Markup
    caption: str
    alt: str
    kind: ClassVar[str] = "picture"


@dataclass(frozen=True)
class Claim:
    """A claim, its test, and what came of it: where, outcome and numbers."""

    claim: str
    test: str
    findings: Sequence[tuple[str, str, str]]
    kind: ClassVar[str] = "claim"


@dataclass(frozen=True)
class Command:
    """A command line to copy."""

    text: str
    kind: ClassVar[str] = "command"


Block = Paragraph | Table | Picture | Claim | Command


@dataclass(frozen=True)
class Section:
    """A heading with its anchor and the blocks below it."""

    anchor: str
    title: str
    blocks: Sequence[Block]
