"""Tables of benchmarks on a GPU, of which a part may have been measured."""

from __future__ import annotations

from types import ModuleType

import graph_tables
import model_cuda_tables
import pytest
import topk_tables
from results import COLUMNS, SIZES, Results, Row

MICROSECONDS = {"sparse_aasist": 2000.0, "eager": 10_000.0, "bfloat16": 5000.0, "unsorted": 3000.0}

VALUES = {"peak_bytes": "3000000", "launches": "30", "bytes": "4000", "error": "0.008"}


def rows_of(
    name: str,
    mode: str,
    providers: tuple[str, ...],
    more: tuple[str, ...] = (),
    **sizes: int,
) -> list[Row]:
    """Return what a case writes: time, memory, and of some `more` metrics."""
    rows = []
    for provider in providers:
        time = str(MICROSECONDS.get(provider, 1000.0))
        row = dict.fromkeys(COLUMNS, "") | {"name": name, "mode": mode, "provider": provider}
        row |= {size: str(value) for size, value in sizes.items()}
        rows.append(row | {"metric": "time", "median": time, "q25": time, "q75": time})
        for metric in ("peak_bytes", *more):
            value = VALUES[metric]
            rows.append(row | {"metric": metric, "median": value, "q25": value, "q75": value})
    assert set(sizes) <= set(SIZES)
    return rows


def cells(lines: list[str], *start: str) -> list[str]:
    """Return the cells of the one row that starts so."""
    (line,) = [line for line in lines if line.startswith(f"| {' | '.join(start)} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def model_rows() -> list[Row]:
    providers = ("sparse_aasist", "eager", "bfloat16")
    rows = rows_of("peak", "forward", ("torch.mm",), batch=8192)
    called = ("launches", "error")
    for name, batch, more in (
        ("model", 1, ("error",)),
        ("launched", 1, called),
        ("model", 128, ("error",)),
    ):
        rows += rows_of(name, "forward", providers, more, batch=batch)
    rows += rows_of("training", "both", providers, called, batch=24)
    for stage in model_cuda_tables.STAGES:
        for mode, batch in (("forward", 128), ("both", 24)):
            rows += rows_of(stage, mode, providers, ("error",), batch=batch)
    return rows


def test_model_on_a_gpu_without_what_was_not_measured() -> None:
    results = Results(model_rows())
    lines = model_cuda_tables.tables(results)
    scored = cells(lines, "graph", "128")
    # 128 clips of 4.0375 s in 2 ms; compiled was not measured.
    assert scored[2:6] == ["2", "0 %", "6.4e+04", "2.58e+05"]
    assert scored[6:11] == ["5.0x", "", "2.5x", "", ""]
    # What is replayed is launched as one graph.
    assert scored[11:] == ["", "", "", "3", "3", "3"]
    launched = cells(lines, "launched", "1")
    assert (launched[4], launched[11:14]) == ("500", ["30", "30", "30"])
    step = cells(lines, "24", "2")
    assert step[3:6] == ["5.0x", "", "2.5x"] and step[6:9] == ["30", "30", "30"]
    forward = cells(lines, "forward", "128", "block 1")
    # 3,183 M multiplications of each of 128 clips, beside 8192^3 in a millisecond.
    assert forward[7:9] == ["203,712", "37 %"]
    assert cells(lines, "both", "24", "graphs")[5:9] == ["5.0x", "2.5x", "", ""]
    (axis,) = model_cuda_tables.draw(results).axes
    assert sum(bar.get_width() for bar in axis.patches[::3]) == pytest.approx(8 * 2.0)


def topk_rows() -> list[Row]:
    eager = ("sparse_aasist", "unsorted")
    rows = []
    for mode in ("forward", "backward", "both"):
        rows += rows_of("topk_activation", mode, eager, ("bytes",), rows=24, dim=160, k=20)
    rows += rows_of("copy", "forward", ("copy",), ("bytes",), rows=24, dim=160, k=0)
    for mode in ("forward", "both"):
        rows += rows_of("topk_linear", mode, (*eager, "compiled"), rows=24, dim=160, k=20)
    return rows


def graph_rows() -> list[Row]:
    rows = []
    for batch in (1, 24):
        for mode in ("forward", "both"):
            providers = ("sparse_aasist", "eager")
            sizes = {"batch": batch, "nodes": 29}
            rows += rows_of("graph_attention", mode, providers, ("launches",), **sizes)
    return rows


def test_ops_on_a_gpu_without_what_was_not_measured() -> None:
    results = Results(topk_rows())
    lines = topk_tables.tables(results)
    both_tables = [line for line in lines if line.startswith("| 24 | 160 | 20 |")]
    assert "1.5x / - |" in both_tables[0] and "1.5x / 0.5x |" in both_tables[1]
    # 4,000 bytes in 2 ms, of a copy in 1 ms.
    assert both_tables[0].endswith("| 0 % | 0.0 | 50 % | 1.0x |")
    assert topk_tables.draw(results).axes[0].lines

    results = Results(graph_rows())
    lines = graph_tables.tables(results)
    half = cells(lines, "24", "29")
    assert (half[2:5], half[9:]) == (["2,000", "5.0x / -", "2,000"], ["30 / 30", "30 / 30"])
    assert graph_tables.draw(results).axes[0].lines


@pytest.mark.parametrize(
    ("module", "rows", "first_shown"),
    [
        # A size is shown once ours was measured in all of its modes.
        (model_cuda_tables, model_rows(), 2),
        (topk_tables, topk_rows(), 5),
        (graph_tables, graph_rows(), 3),
    ],
    ids=["model", "topk", "graph"],
)
def test_tables_of_a_run_that_was_cut_off(
    module: ModuleType, rows: list[Row], first_shown: int
) -> None:
    starts = [index for index, row in enumerate(rows) if row["metric"] == "time"]
    shown = []
    for cut in (*starts[first_shown:], len(rows)):
        results = Results(rows[:cut])
        shown.append(sum(line.startswith("| ") for line in module.tables(results)))
        module.draw(results)
    # Headers and rows: none is lost again, and the whole run shows the most.
    assert shown == sorted(shown) and shown[0] < shown[-1]
