"""The figures of a results file: its columns, and how tables look them up."""

from __future__ import annotations

from collections.abc import Iterable

SIZES = ("rows", "dim", "k", "batch", "nodes")
"""Columns that tell the sizes of a benchmark; empty where they do not apply."""
COLUMNS = (
    *("name", "provider", "mode", *SIZES, "metric", "unit", "median", "q25", "q75", "n"),
    *("device", "driver", "torch", "compiler", "simd", "threads", "commit", "date", "command"),
)

Row = dict[str, str]
Key = tuple[str, str, tuple[int, ...]]
"""name, mode, sizes"""


class Results:
    """The figures of one file, by what was run, who ran it, and the metric."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._medians: dict[tuple[Key, str, str], float] = {}
        self._spreads: dict[tuple[Key, str], float] = {}
        for row in rows:
            sizes = tuple(int(row[size]) for size in SIZES if row[size])
            key = (row["name"], row["mode"], sizes)
            median = float(row["median"])
            self._medians[key, row["provider"], row["metric"]] = median
            if row["metric"] == "time":
                half = (float(row["q75"]) - float(row["q25"])) / 2
                self._spreads[key, row["provider"]] = half / median

    def time(self, key: Key, provider: str) -> float:
        """Return the median in microseconds."""
        return self.get(key, provider, "time")

    def time_or_none(self, key: Key, provider: str) -> float | None:
        """Return the median in microseconds, None where it was not measured."""
        return self.get_or_none(key, provider, "time")

    def ratio(self, key: Key, provider: str, ours: float) -> str:
        """Return how many times `ours` a provider takes, empty where it was not measured."""
        time = self.time_or_none(key, provider)
        return "" if time is None else f"{time / ours:.1f}x"

    def spread(self, key: Key, provider: str) -> float:
        """Return half the distance of the quartiles, as a fraction of the median."""
        return self._spreads[key, provider]

    def get(self, key: Key, provider: str, metric: str) -> float:
        """Return the median of a metric."""
        if (key, provider, metric) not in self._medians:
            raise SystemExit(f"report: no {metric} of {provider} for {key}: run the whole suite")
        return self._medians[key, provider, metric]

    def get_or_none(self, key: Key, provider: str, metric: str) -> float | None:
        """Return the median of a metric, None where it was not measured."""
        return self._medians.get((key, provider, metric))

    def has(self, metric: str) -> bool:
        """Tell whether a metric was measured."""
        return any(key[2] == metric for key in self._medians)

    def best_time(self, key: Key, providers: Iterable[str]) -> float | None:
        """Return the time of the fastest of the providers, None where none was measured."""
        times = [self.time_or_none(key, name) for name in providers]
        return min((time for time in times if time is not None), default=None)

    def sizes(self, name: str, mode: str | None = None) -> list[tuple[int, ...]]:
        """Return the sizes of a benchmark, of one mode or of all, in order."""
        keys = {key for key, _, _ in self._medians}
        return sorted({key[2] for key in keys if key[0] == name and mode in (None, key[1])})

    def complete(self, name: str, *modes: str) -> list[tuple[int, ...]]:
        """Return the sizes of which ours was measured in all `modes`: a run may be cut off."""

        def is_complete(size: tuple[int, ...]) -> bool:
            times = [self.time_or_none((name, mode, size), "sparse_aasist") for mode in modes]
            return None not in times

        return [size for size in self.sizes(name) if is_complete(size)]


def microseconds(time: float) -> str:
    """Return a time with three digits."""
    return f"{time:,.3g}" if time < 1000 else f"{time:,.0f}"
