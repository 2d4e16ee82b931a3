"""The SIMT shim itself: right kernels give the right result, planted faults are found."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from kernel_program import KernelFailure, KernelProgram, build_program
from torch import Tensor

SUM, REVERSE, COLLECTIVES, FAULT, TOO_LARGE, RAISED = range(6)
SCHEDULES = range(3)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KernelProgram]:
    main = Path(__file__).parent / "simt" / "serve_faults.cpp"
    program = KernelProgram(build_program(main, (), tmp_path_factory.mktemp("faults")))
    yield program
    program.close()


def run(program: KernelProgram, kernel: int, schedule: int, number: int, size: int) -> Tensor:
    out = torch.full((size,), -1.0, dtype=torch.float64)
    return program.call("run", (kernel, schedule, number), (out,))[0]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_right_kernels_run(program: KernelProgram, schedule: int) -> None:
    lanes = torch.arange(32, dtype=torch.float64)
    assert torch.equal(
        run(program, SUM, schedule, 1, 128), torch.full((128,), 2016.0, dtype=torch.float64)
    )
    assert torch.equal(run(program, REVERSE, schedule, 1, 32), lanes.flip(0))
    got = run(program, COLLECTIVES, schedule, 0, 256).reshape(8, 32)
    assert (got[0] == sum(1 << lane for lane in range(0, 32, 3))).all()
    assert (got[1] == 496 - 640).all()
    assert (got[2] == -20).all() and (got[3] == -29).all()
    assert torch.equal(got[4], torch.where(lanes < 3, lanes, lanes - 3))
    assert torch.equal(got[5], torch.tensor([0.5 * (lane ^ 5) for lane in range(32)]).double())
    assert (got[6] == 21).all()
    assert (got[7, :16] == 120).all() and (got[7, 16:] == 0xAAAA0000).all()


@pytest.mark.parametrize("kernel", [SUM, REVERSE])
def test_a_missing_barrier_shows_in_some_schedule(program: KernelProgram, kernel: int) -> None:
    size = {SUM: 128, REVERSE: 32}[kernel]
    right = run(program, kernel, 0, 1, size)
    wrong = [run(program, kernel, schedule, 0, size) for schedule in SCHEDULES]
    assert any(not torch.equal(result, right) for result in wrong)
    # What no thread had written yet is NaN, in the first block and in later ones.
    assert any(result[-size // 2 :].isnan().any() for result in wrong)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("b_by_columns", [False, True])
def test_tensor_cores_multiply_tiles(
    program: KernelProgram, schedule: int, b_by_columns: bool
) -> None:
    generator = torch.Generator().manual_seed(1)
    # No two entries are alike, and none is zero: each must go where it belongs.
    a, b, c = (torch.randn(16, 16, generator=generator) for _ in range(3))
    a, b = a.bfloat16(), b.bfloat16()
    scalars, arrays = (schedule, int(b_by_columns)), (a, b.t() if b_by_columns else b, c)
    got = program.call("multiply", scalars, arrays)[2]
    expected = a.double() @ b.double() + c.double()
    torch.testing.assert_close(got.double(), expected, rtol=1e-6, atol=1e-6)


def test_pairs_of_bfloat16_are_rounded_and_packed(program: KernelProgram) -> None:
    special = [0.0, -0.0, torch.inf, -torch.inf, torch.nan, 3.4e38, 1e-45, 1e-39]
    # Half-way between two, the lower of which is even, or odd.
    special += [1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, -1 - 3 * 2**-8]
    generator = torch.Generator().manual_seed(1)
    pairs = torch.cat([torch.tensor(special), torch.randn(52, generator=generator)])
    got, packed = program.call("pack", (), (pairs, torch.zeros(32, dtype=torch.int32)))
    expected = pairs.bfloat16()
    torch.testing.assert_close(got, expected.float(), rtol=0, atol=0, equal_nan=True)
    assert torch.equal(got.signbit()[:2], torch.tensor([False, True]))
    halves = packed.view(torch.bfloat16)
    torch.testing.assert_close(halves, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("number", "report"),
    [
        (0, "a mask names a lane that has exited"),
        (1, "lanes of a warp wait for different collectives"),
        (2, "threads of a block wait for different barriers"),
        (3, "a mask does not name the lane that uses it"),
        (4, "a shuffle reads a lane outside its mask"),
        (5, "use-after-poison"),
        (6, "use-after-poison"),
        (7, "out of bounds|global-buffer-overflow"),
        (8, "heap-buffer-overflow"),
        (9, "shift exponent"),
    ],
)
def test_faults_end_the_program(program: KernelProgram, number: int, report: str) -> None:
    with pytest.raises(KernelFailure, match=report):
        run(program, FAULT, 0, number, 64)
    # The next call starts it again.
    assert run(program, SUM, 0, 1, 128)[0] == 2016


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (0, "invalid configuration argument"),  # too many threads
        (1, "invalid configuration argument"),  # of shared memory more than 48 KB
        (2, "invalid configuration argument"),  # more than its raised limit
        (3, "invalid argument"),  # a limit beyond what the device has
    ],
)
def test_an_impossible_launch_is_refused(program: KernelProgram, number: int, reason: str) -> None:
    with pytest.raises(KernelFailure, match=f"refused {reason}"):
        run(program, TOO_LARGE, 0, number, 64)


def test_a_raised_limit_of_shared_memory_is_used(program: KernelProgram) -> None:
    got = run(program, RAISED, 0, 0, 32)
    assert torch.equal(got, torch.arange(32, dtype=torch.float64).flip(0))
