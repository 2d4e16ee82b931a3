"""Kinds of arguments that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def integer_from(least: int) -> Callable[[str], int]:
    """Return a parser of integers of at least `least`, for argparse."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"must be an integer of at least {least}, got {text}")
        return value

    return parse
