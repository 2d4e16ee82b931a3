"""What a run of benchmarks leaves behind: also where it is cut off or a fact is missing."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import bench_model
import model_providers
import provenance
import pytest
import report
import torch
from cases import read_cases, start_file
from measure import check_norm
from model_plans import PLANS, tolerance_of
from results import COLUMNS

from sparse_aasist._extension import has_kernel

BENCHMARKS = Path(report.__file__).parent
INTERRUPTED = """
import os, signal
from measure import measure, record

def test_first(benchmark, device):
    case = {"name": "model", "mode": "forward", "provider": "eager", "batch": 3}
    record(benchmark, lambda: None, device, counts_launches=True, error=0.0078, **case)

def test_wrong(benchmark, device):
    measure(benchmark, lambda: None, device)
    assert False

def test_killed(benchmark, device):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def case(function: str, provider: str, median: float = 2e-3, **info: Any) -> dict[str, Any]:
    """Return what a benchmark of the graphs on a GPU leaves."""
    columns = {"kind": "cuda", "mode": "forward", "provider": provider, "batch": 24, "nodes": 29}
    shared = {"device": "H100", "torch": "2.11.0", "commit": "5c3c0dc", "peak_bytes": 3_000_000}
    return {
        "fullname": f"benchmarks/bench_graph.py::{function}[24-29-{provider}]",
        "extra_info": columns | shared | info,
        "stats": {"median": median, "q1": median / 2, "q3": 2 * median, "rounds": 7},
    }


def test_a_killed_run_leaves_what_had_finished(tmp_path: Path) -> None:
    if not has_kernel("topk_activation", "cpu"):
        pytest.skip("this build has no cpu kernels")
    shutil.copy(BENCHMARKS / "conftest.py", tmp_path)
    (tmp_path / "test_interrupted.py").write_text(INTERRUPTED)
    results = tmp_path / "new" / "run.jsonl"
    command = [sys.executable, "-m", "pytest", str(tmp_path), "--results", str(results)]
    command += ["--rootdir", str(tmp_path), "-p", "no:cacheprovider"]
    path = os.pathsep.join((str(BENCHMARKS), str(BENCHMARKS.parent), os.getenv("PYTHONPATH", "")))
    run = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert run.returncode == -signal.SIGKILL, run.stdout
    (first,) = read_cases(results)
    time, *rest = report.rows_of_case(first, "make bench")
    assert first["fullname"] == "test_interrupted.py::test_first"
    # Launches are those of a GPU.
    found = [(row["metric"], row["median"]) for row in rest]
    assert found == [("peak_bytes", "0"), ("error", "0.0078")]
    # Columns of sizes that do not apply are empty.
    assert [name for name in COLUMNS if name not in time] == []
    assert (time["name"], time["batch"], time["nodes"]) == ("model", "3", "")
    assert time["commit"] == "unversioned"
    assert time["compiler"] and time["simd"] and int(time["n"]) > 0
    assert float(time["q25"]) <= float(time["median"]) <= float(time["q75"])


def test_results_that_cannot_be_written_stop_a_run_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        start_file(tmp_path / "file" / "run.jsonl")


def test_a_line_that_was_cut_is_no_case(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    path.write_text('{"fullname": "a"}\n{"fullname": "b"}\n{"fullna')
    assert [found["fullname"] for found in read_cases(path)] == ["a", "b"]
    path.write_text('{"fullna')
    with pytest.raises(SystemExit, match="no finished benchmark"):
        read_cases(path)
    with pytest.raises(SystemExit, match="absent"):
        read_cases(tmp_path / "absent.jsonl")


def test_a_build_that_does_not_tell_its_compiler_is_measured(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "build_info", lambda: {"compiled": True, "reason": None})
    monkeypatch.setattr(provenance.torch.cuda, "get_device_name", lambda: "H100")
    monkeypatch.setenv("PATH", "")
    found = provenance.provenance("cuda", request.config)
    assert (found["compiler"], found["driver"], found["device"]) == ("unknown", "unknown", "H100")
    assert set(found) == set(COLUMNS[COLUMNS.index("device") :]) - {"command"}


def test_a_limited_cpu_has_results_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    cases = [case(f"bench_{isa}", "eager", kind="cpu", isa=isa) for isa in (None, "avx2")]
    report.write_results(cases, "make bench")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "graph_cpu.csv",
        "graph_cpu_avx2.csv",
    ]


def test_parts_of_a_run_are_joined_and_the_later_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    ours, eager = (case("bench_graph_op", name) for name in ("sparse_aasist", "eager"))
    again = case("bench_graph_op", "eager", 5e-3, name="graph_half", launches=30, error=1 / 128)
    report.write_results([ours, eager, again], "make bench-cuda")
    with open(tmp_path / "graph_cuda.csv") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    found = [(row["name"], row["provider"], row["metric"], row["median"]) for row in rows]
    assert found == [
        ("graph_op", "sparse_aasist", "time", "2000"),
        ("graph_op", "sparse_aasist", "peak_bytes", "3000000"),
        ("graph_half", "eager", "time", "5000"),
        ("graph_half", "eager", "peak_bytes", "3000000"),
        ("graph_half", "eager", "launches", "30"),
        ("graph_half", "eager", "error", "0.0078"),
    ]
    assert (rows[0]["q25"], rows[0]["q75"], rows[0]["n"], rows[1]["n"]) == (
        "1000",
        "4000",
        "7",
        "1",
    )

    other = case("bench_graph_half", "sparse_aasist", device="H200")
    with pytest.raises(SystemExit, match=r"graph_cuda is of H100.*; H200"):
        report.write_results([ours, other], "make bench-cuda")


def test_representative_cases_of_the_model() -> None:
    plan = PLANS["cuda"]
    scored = [
        (name, batch, provider)
        for name, batch in plan.scoring
        for provider in plan.scorers
        if bench_model.is_representative({"name": name, "batch": batch, "provider": provider})
    ]
    of_all = ("sparse_aasist", "eager", "bfloat16")
    runs = (("model", 1), ("launched", 1), ("model", 128))
    assert scored == [(*run, provider) for run in runs for provider in of_all]
    for params, expected in (
        ({"batch": 24, "provider": "eager"}, True),
        ({"batch": 24, "provider": "float32"}, False),
        ({"provider": "torch.mm"}, True),
        ({"mode": "forward", "batch": 128, "stage": "block 1", "provider": "bfloat16"}, True),
        ({"mode": "both", "batch": 24, "stage": "block 1", "provider": "bfloat16"}, False),
    ):
        assert bench_model.is_representative(params) is expected


@pytest.fixture
def needs_kernels() -> None:
    """The results of ours are what others are held to on a CPU."""
    if not has_kernel("residual_block", "cpu"):
        pytest.skip("this build has no cpu kernels")


@pytest.mark.usefixtures("needs_kernels")
@pytest.mark.parametrize("provider", ["eager", "bfloat16"])
def test_a_provider_that_scores_something_else_is_not_timed(provider: str) -> None:
    run = bench_model.scoring_of(provider, 1, "cpu")
    assert bench_model.check_scores(run, provider, 1, "cpu") < 1e-2
    model = model_providers.model_of(provider, "cpu")
    noise = 0.1 * torch.randn(1, model_providers.SAMPLES, generator=torch.Generator())

    def scores_other_noise() -> torch.Tensor:
        with torch.inference_mode():
            return model(noise).logits

    for wrong in (scores_other_noise, lambda: 1.01 * run()):
        with pytest.raises(AssertionError, match="of the norm"):
            bench_model.check_scores(wrong, provider, 1, "cpu")


@pytest.mark.usefixtures("needs_kernels")
@pytest.mark.parametrize("stage", PLANS["cpu"].stage_names)
def test_a_stage_of_something_else_is_not_timed(
    stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = bench_model.expected_of_stage(stage, "forward", 1, "cpu")
    noise = 0.1 * torch.randn(1, model_providers.SAMPLES, generator=torch.Generator())
    monkeypatch.setattr(bench_model, "waveforms", lambda batch, device: noise)
    xs = bench_model.chain_of("sparse_aasist", "forward", 1, "cpu")
    got = xs[1 + PLANS["cpu"].stage_names.index(stage)]
    with pytest.raises(AssertionError, match="of the norm"):
        check_norm(got, expected, tolerance_of("output", "bfloat16", "cpu"))


def test_a_vanished_gradient_is_not_timed() -> None:
    gradients = (torch.randn(3), torch.randn(2, 2))
    for what, provider in (("gradient", "bfloat16"), ("step", "eager")):
        tolerance = tolerance_of(what, provider, "cuda")
        with pytest.raises(AssertionError, match="of the norm"):
            check_norm([torch.zeros_like(g) for g in gradients], gradients, tolerance)
        with pytest.raises(AssertionError, match="of the norm"):
            check_norm([g * torch.nan for g in gradients], gradients, tolerance)
    assert tolerance_of("output", "sparse_aasist", "cuda", "graphs") < 1e-3
