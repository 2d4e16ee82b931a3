"""The archives that a build makes: what they hold, and that their kernels run."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from toolchain import find_cxx

ROOT = Path(__file__).resolve().parents[1]
# How setuptools names the folder of a platform's build.
PLATFORM = f"{sysconfig.get_platform()}-{sys.implementation.cache_tag}"


@pytest.fixture(autouse=True)
def no_switches(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SPARSE_AASIST_CUDA", "SPARSE_AASIST_TORCH_PYTHON", "CXX"):
        monkeypatch.delenv(name, raising=False)


def copy_of_the_sources(folder: Path) -> Path:
    """Copy what git would hold, so that the checkout stays as it is."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    return folder


def build(tree: Path, hook: str, out: Path) -> tuple[Path, str]:
    """Call a hook of the backend in a process of its own, as a front end does."""
    code = (
        "import sys; sys.path.insert(0, 'build_backend'); import sparse_aasist_backend as b\n"
        f"print(b.{hook}({str(out)!r}), file=sys.stderr)"
    )
    out.mkdir()
    run = subprocess.run([sys.executable, "-c", code], cwd=tree, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    (built,) = out.iterdir()
    return built, run.stdout


@pytest.mark.slow
def test_sdist_holds_all_sources(tmp_path: Path) -> None:
    pytest.importorskip("setuptools")
    tree = copy_of_the_sources(tmp_path / "tree")
    archive, _ = build(tree, "build_sdist", tmp_path / "out")
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    wanted = [
        path
        for folder in ("csrc", "build_backend", "sparse_aasist", "tests")
        for path in (tree / folder).rglob("*")
        if path.is_file()
    ]
    wanted += [tree / name for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "LICENSE")]
    missing = {str(path.relative_to(tree)) for path in wanted} - names
    assert not {name for name in missing if "__pycache__" not in name}
    assert not [name for name in names if name.endswith((".so", ".pyc"))]


@pytest.mark.slow
def test_wheel_without_a_compiler_is_pure_python_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("setuptools")
    monkeypatch.setenv("CXX", "/nonexistent/c++")
    tree = copy_of_the_sources(tmp_path / "tree")
    # A leftover of an earlier build with a compiler must not be packed.
    leftover = tree / "build" / f"lib.{PLATFORM}" / "sparse_aasist" / "libsparse_aasist_ops.so"
    leftover.parent.mkdir(parents=True)
    leftover.write_bytes(b"stale")
    wheel, log = build(tree, "build_wheel", tmp_path / "out")
    assert not leftover.exists()
    assert log.count("sparse_aasist: built without kernels (no working C++ compiler, tried") == 1
    names = zipfile.ZipFile(wheel).namelist()
    assert "sparse_aasist/ops/topk_activation.py" in names
    # Files that are no modules are packed by name only.
    assert {"sparse_aasist/report/template.html.j2", "sparse_aasist/corpus/texts.tsv"} <= {*names}
    assert not [name for name in names if name.endswith(".so")]


@pytest.mark.slow
def test_wheel_has_kernels_that_run(tmp_path: Path) -> None:
    pytest.importorskip("setuptools")
    pytest.importorskip("pybind11")
    if find_cxx()[0] is None:
        pytest.skip(find_cxx()[1])
    wheel, log = build(copy_of_the_sources(tmp_path / "tree"), "build_wheel", tmp_path / "out")
    assert log.count("sparse_aasist: built CPU kernels") == 1
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        "import sparse_aasist, sparse_aasist.ops as ops, torch, json\n"
        "y = ops.topk_activation(torch.tensor([1.0, 5.0, 2.0]), 1)\n"
        "print(json.dumps([sparse_aasist.__file__, sparse_aasist.build_info(), y.tolist()]))"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert str(tmp_path / "site") in run.stdout
    assert '"compiled": true' in run.stdout and '"stable_abi": "2.11"' in run.stdout
    assert run.stdout.strip().endswith("[0.0, 5.0, 0.0]]")
