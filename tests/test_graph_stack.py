"""graph_stack: every implementation against the modules that it replaces, in float64.

The modules themselves are held to explicit loops and to the published model elsewhere
(test_aasist.py, test_aasist_parity.py).
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from graph_implementations import GraphFunctions, GraphSanitized, runs_on_device
from implementations import ON_DEVICE, SCHEDULES
from stack_models import CASES, NARROW, features_for, live_model
from torch import Tensor, nn

from sparse_aasist import AASIST
from sparse_aasist._extension import has_kernel
from sparse_aasist.models.graph_stack import graph_stack, stack_arguments
from sparse_aasist.ops import backend

Implementation = GraphFunctions | GraphSanitized

TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5}


def check(implementation: Implementation, model: AASIST, features: Tensor) -> Tensor:
    got = implementation.stack(model, features)
    with backend("reference"), torch.no_grad():
        expected = copy.deepcopy(model).double()._read_graphs(features.double())
    assert got.dtype == features.dtype and got.shape == expected.shape
    tolerance = TOLERANCE[features.dtype]
    torch.testing.assert_close(
        got.double(), expected, rtol=tolerance, atol=tolerance, equal_nan=True
    )
    return got


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_random(graph: Implementation, case: str, dtype: torch.dtype) -> None:
    if dtype is torch.float64 and runs_on_device(graph):
        pytest.skip("a GPU computes graph_stack in float32 only")
    config, batch, steps = CASES[case]
    model = live_model(config, dtype)
    check(graph, model, features_for(model, batch, steps))


def test_equal_scores_keep_the_lowest_nodes(graph: Implementation) -> None:
    model = live_model(NARROW, torch.float32)
    for pool in (model.pool_S, model.pool_T, model.pool_hS1, model.pool_hT2):
        nn.init.zeros_(pool.proj.weight)
    check(graph, model, features_for(model, 2, 7))


def test_nan_stays_in_its_clip(graph: Implementation) -> None:
    model = live_model(NARROW, torch.float32)
    features = features_for(model, 3, 7)
    features[1, 2, 1, 3] = torch.nan
    got = check(graph, model, features)
    assert got[1].isnan().all() and not got[[0, 2]].isnan().any()


def test_infinite_features(graph: Implementation) -> None:
    model = live_model(NARROW, torch.float32)
    features = features_for(model, 2, 7)
    features[0, 1, 1, 2] = -torch.inf
    check(graph, model, features)


def test_signs_do_not_matter(graph: Implementation) -> None:
    model = live_model(NARROW, torch.float32)
    features = features_for(model, 2, 7)
    assert torch.equal(graph.stack(model, features), graph.stack(model, -features))


def test_features_in_another_layout(graph: Implementation) -> None:
    model = live_model(NARROW, torch.float32)
    features = features_for(model, 2, 14)[..., ::2].to(memory_format=torch.channels_last)
    check(graph, model, features)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_device_code_under_every_schedule(graph_program: Any, schedule: str) -> None:
    implementation = GraphSanitized(graph_program, ON_DEVICE, schedule)
    model = live_model(NARROW, torch.float32)
    check(implementation, model, features_for(model, 3, 7))


@pytest.mark.needs_cuda
def test_cuda_graphs_capture_it() -> None:
    model = live_model({"dim": 160}, torch.float32)
    features = features_for(model, 2, 29).cuda()
    model = model.cuda()
    with torch.no_grad(), backend("compiled"):
        for _ in range(3):
            expected = model._classify(features).logits
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            got = model._classify(features).logits
        features.neg_()  # magnitudes alone count
        graph.replay()
    torch.testing.assert_close(got, expected)


def compiled_readout(model: AASIST, features: Tensor) -> Tensor | None:
    with backend("compiled"), torch.no_grad():
        return graph_stack(model, features)


@pytest.mark.skipif(not has_kernel("graph_stack", "cpu"), reason="this build has no cpu kernels")
class TestPublicPath:
    def test_empty_batch(self) -> None:
        model = live_model(NARROW, torch.float32)
        readout = compiled_readout(model, features_for(model, 0, 7))
        assert readout is not None and readout.shape == (0, 35)

    @pytest.mark.parametrize("batch", [2, 3, 5, 7])
    def test_threads_do_not_meet(self, batch: int) -> None:
        # Threads are at layers of other sizes at the same time.
        model = live_model({"dim": 320}, torch.float64)
        features = features_for(model, batch, 29)
        alone = torch.cat([compiled_readout(model, clip[None]) for clip in features])
        for _ in range(10):
            assert torch.equal(compiled_readout(model, features), alone)

    def test_the_model_uses_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = live_model(NARROW, torch.float32)
        waveform = torch.randn(2, 4000)
        with torch.no_grad(), backend("reference"):
            expected = model(waveform)
        monkeypatch.setattr(AASIST, "_read_graphs", None)
        with torch.no_grad(), backend("compiled"):
            torch.testing.assert_close(tuple(model(waveform)), tuple(expected))

    def test_modules_run_where_more_than_arithmetic_happens(self) -> None:
        features = features_for(live_model(NARROW, torch.float32), 2, 7)

        def refused(change: Any) -> bool:
            model = live_model(NARROW, torch.float32)
            change(model)
            return compiled_readout(model, features) is None

        assert not refused(lambda model: None)
        assert refused(lambda model: model.drop_way.train())
        assert refused(lambda model: model.pool_hS2.drop.train())
        assert refused(lambda model: model.HtrgGAT_layer_ST21.bn.train())
        assert refused(lambda model: model.GAT_layer_S.register_forward_hook(print))
        assert refused(lambda model: model.pool_T.proj.register_forward_pre_hook(print))
        assert refused(lambda model: nn.utils.parametrizations.weight_norm(model.pool_T.proj))
        assert refused(lambda model: setattr(model.pool_S, "forward", print))
        assert refused(lambda model: setattr(model, "drop_way", nn.Identity().eval()))
        assert refused(lambda model: setattr(model.GAT_layer_T, "bn", nn.Identity().eval()))
        assert refused(lambda model: setattr(model, "pool_T", nn.Sequential(model.pool_T).eval()))
        assert refused(lambda model: model.GAT_layer_T.att_proj.bfloat16())

    def test_gradients_come_from_the_modules(self) -> None:
        model = live_model(NARROW, torch.float32)
        features = features_for(model, 2, 7)
        with backend("compiled"):
            assert graph_stack(model, features) is None
            assert graph_stack(model.requires_grad_(False), features) is not None
            assert graph_stack(model, features.requires_grad_()) is None

    def test_larger_sizes_run_as_modules(self) -> None:
        small = live_model(NARROW, torch.float32)
        assert compiled_readout(small, features_for(small, 1, 1024)) is not None
        assert compiled_readout(small, features_for(small, 1, 1025)) is None
        # 1,023 + 3 joined nodes.
        joined = live_model(NARROW | {"pool_ratios": (1.0, 1.0, 0.5)}, torch.float32)
        assert compiled_readout(joined, features_for(joined, 1, 1021)) is not None
        assert compiled_readout(joined, features_for(joined, 1, 1022)) is None
        wide = live_model(NARROW | {"gat_dim": 129}, torch.float32)
        assert compiled_readout(wide, features_for(wide, 1, 7)) is None

    def test_half_precision_runs_as_modules(self) -> None:
        model = live_model(NARROW, torch.bfloat16)
        assert compiled_readout(model, features_for(model, 1, 7)) is None

    def test_the_op_is_registered_completely(self) -> None:
        model = live_model(NARROW, torch.float32).requires_grad_(False)
        features = features_for(model, 2, 7)
        arguments = (features, *stack_arguments(model, features))
        torch.library.opcheck(torch.ops.sparse_aasist.graph_stack.default, arguments)

    @pytest.mark.parametrize(
        ("position", "change", "message"),
        [
            (1, lambda weights: weights[:-1], "weights must end"),
            (1, lambda weights: [*weights[:3], *weights[5:]], "weight 3"),
            (1, lambda weights: [*weights, *weights[-2:]], "wants 133 weights, got 135"),
            (1, lambda weights: [weights[0].double(), *weights[1:]], "weight 0"),
            (2, lambda kept: [8, *kept[1:]], "kept nodes"),
            (2, lambda kept: [*kept[:3], 0], "kept nodes"),
            (3, lambda temperatures: temperatures[1:], "temperatures"),
            (0, lambda features: features[0], "features must be"),
            (0, lambda features: features.half(), "float32 or float64"),
        ],
    )
    def test_bad_arguments_are_refused(self, position: int, change: Any, message: str) -> None:
        model = live_model(NARROW, torch.float32).requires_grad_(False)
        features = features_for(model, 2, 7)
        arguments: list[Any] = [features, *stack_arguments(model, features)]
        arguments[position] = change(arguments[position])
        with pytest.raises(RuntimeError, match=message):
            torch.ops.sparse_aasist.graph_stack.default(*arguments)
