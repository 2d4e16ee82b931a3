"""graph_stack in training as the model calls it: when it runs, what it draws, moves and refuses.

What it computes is held to the modules in test_graph_stack_training.py.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from graph_implementations import GraphFunctions, assert_close_to_largest
from stack_models import NARROW, features_for, noise_for, training_model
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

from sparse_aasist import AASIST
from sparse_aasist._extension import has_kernel
from sparse_aasist.models.graph_stack import graph_stack, stack_arguments
from sparse_aasist.ops import backend


@pytest.mark.needs_cuda
def test_cuda_graphs_capture_it() -> None:
    model = training_model({"dim": 160}, torch.float32)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    features = features_for(model, 2, 29).cuda().requires_grad_()
    model = model.cuda()

    def run() -> tuple[Tensor, Tensor]:
        readout = graph_stack(model, features)
        return readout, *torch.autograd.grad(readout.sum(), features)

    with backend("compiled"):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                expected = [tensor.clone() for tensor in run()]
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            readout, gradient = run()
        with torch.no_grad():
            features.neg_()  # magnitudes alone count
        graph.replay()
    torch.testing.assert_close(readout, expected[0])
    torch.testing.assert_close(gradient, -expected[1])


def compiled_readout(model: AASIST, features: Tensor) -> Tensor | None:
    with backend("compiled"):
        return graph_stack(model, features)


@pytest.mark.skipif(
    not has_kernel("graph_stack_training", "cpu"), reason="this build has no cpu kernels"
)
class TestPublicPath:
    @pytest.mark.parametrize("p", [0.0, 0.4, 1.0])
    def test_dropout_draws_what_the_modules_draw(self, p: float) -> None:
        model = training_model(NARROW, torch.float64)
        model.pool_S.drop.p = model.GAT_layer_T.input_drop.p = p
        features = features_for(model, 3, 7).to(memory_format=torch.channels_last)
        twin = copy.deepcopy(model)
        torch.manual_seed(5)
        got = compiled_readout(model, features)
        after = torch.get_rng_state()
        torch.manual_seed(5)
        expected = twin._read_graphs(features)
        assert got is not None and torch.equal(torch.get_rng_state(), after)
        torch.testing.assert_close(got, expected)
        torch.testing.assert_close(dict(model.named_buffers()), dict(twin.named_buffers()))

    def test_a_training_step_through_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = training_model(NARROW, torch.float32)
        twin, waveform = copy.deepcopy(model), torch.randn(4, 4000)
        gradients = []
        for name, network in (("reference", twin), ("compiled", model)):
            if name == "compiled":
                monkeypatch.setattr(AASIST, "_read_graphs", None)
            torch.manual_seed(7)
            with backend(name):
                logits = network(waveform).logits
                nn.functional.cross_entropy(logits, torch.tensor([0, 1, 1, 0])).backward()
            gradients.append({n: p.grad for n, p in network.named_parameters() if p.requires_grad})
        expected, got = gradients
        for name, gradient in expected.items():
            assert_close_to_largest(got[name], gradient, torch.float32, 2e-3, name)

    def test_the_gradient_does_not_depend_on_threads(self) -> None:
        model = training_model({"dim": 160}, torch.float32)
        features = features_for(model, 5, 14)
        noise = noise_for(model, features)
        grad = torch.randn(5, 160, generator=torch.Generator().manual_seed(2))
        compiled = GraphFunctions("compiled")
        threads = torch.get_num_threads()
        try:
            torch.set_num_threads(1)
            alone = compiled.train(model, features, noise, grad)
            torch.set_num_threads(4)
            results = [compiled.train(model, features, noise, grad) for _ in range(5)]
        finally:
            torch.set_num_threads(threads)
        for got in results:
            assert torch.equal(got.readout, alone.readout)
            assert torch.equal(got.features, alone.features)
            for name, gradient in alone.weights.items():
                assert torch.equal(got.weights[name], gradient), name

    def test_gradcheck(self) -> None:
        model = training_model(NARROW, torch.float64)
        features = features_for(model, 2, 3).requires_grad_()

        def readout(features: Tensor) -> Tensor:
            torch.manual_seed(3)
            with backend("compiled"):
                return graph_stack(model, features)

        assert torch.autograd.gradcheck(readout, (features,))

    def test_modules_run_where_more_than_arithmetic_happens(self) -> None:
        features = features_for(training_model(NARROW, torch.float32), 2, 7)

        def refused(change: Any) -> bool:
            model = training_model(NARROW, torch.float32)
            change(model)
            return compiled_readout(model, features) is None

        assert not refused(lambda model: None)
        assert refused(AASIST.eval)  # a gradient with fixed statistics
        assert refused(lambda model: model.drop_way.eval())
        assert refused(lambda model: model.pool_hS2.drop.eval())
        assert refused(lambda model: model.HtrgGAT_layer_ST21.bn.eval())
        assert refused(lambda model: model.GAT_layer_S.register_forward_hook(print))
        assert refused(lambda model: setattr(model, "drop_way", nn.Identity()))
        assert refused(lambda model: setattr(model.GAT_layer_T.bn, "momentum", None))
        assert refused(lambda model: setattr(model.GAT_layer_T.bn, "track_running_stats", False))
        shared = "HtrgGAT_layer_ST21"
        assert refused(lambda model: setattr(model, shared, model.HtrgGAT_layer_ST11))

    def test_a_single_node_is_refused_as_by_the_modules(self) -> None:
        model = training_model(NARROW, torch.float32)
        features = features_for(model, 1, 1)
        assert compiled_readout(model, features) is None
        with pytest.raises(ValueError, match="more than 1 value"):
            model._read_graphs(features)

    def test_frozen_weights(self) -> None:
        model = training_model(NARROW, torch.float32)
        model.GAT_layer_S.requires_grad_(False)
        readout = compiled_readout(model, features_for(model, 2, 7))
        assert readout is not None
        readout.sum().backward()
        assert model.GAT_layer_S.att_proj.weight.grad is None
        assert model.GAT_layer_T.att_proj.weight.grad is not None

    def test_without_gradients_statistics_still_move(self) -> None:
        model = training_model(NARROW, torch.float32)
        before = model.GAT_layer_S.bn.running_mean.clone()
        with torch.no_grad():
            assert compiled_readout(model, features_for(model, 2, 7)) is not None
        assert not torch.equal(model.GAT_layer_S.bn.running_mean, before)
        assert model.GAT_layer_S.bn.num_batches_tracked == 1

    def test_torch_compile_traces_the_modules(self) -> None:
        model = training_model(NARROW | {"k": 7}, torch.float32)
        waveform = torch.randn(2, 4000)
        compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend="aot_eager")
        torch.manual_seed(2)
        got = compiled(waveform).logits
        torch.manual_seed(2)
        with backend("reference"):
            torch.testing.assert_close(got, model(waveform).logits, rtol=1e-3, atol=1e-4)

    def test_fake_tensors_go_through_the_modules(self) -> None:
        with FakeTensorMode():
            model = AASIST(**NARROW).train()
            readout = model._classify(torch.randn(2, 9, 3, 7)).logits
        assert readout.shape == (2, 2)

    def test_under_checkpointing(self) -> None:
        model = training_model(NARROW, torch.float32)
        gradients = []
        for run in (graph_stack, lambda *args: checkpoint(graph_stack, *args, use_reentrant=False)):
            torch.manual_seed(4)
            features = features_for(model, 3, 7).requires_grad_()
            gradients.append(torch.autograd.grad(run(model, features).sum(), features)[0])
        assert torch.equal(*gradients)

    def test_saved_tensors_may_come_back_unaligned(self) -> None:
        model = training_model(NARROW, torch.float32)
        features = features_for(model, 3, 7).requires_grad_()

        def moved(tensor: Tensor) -> Tensor:
            room = torch.empty(tensor.numel() + 1, dtype=tensor.dtype)
            return room[1:].view(tensor.shape).copy_(tensor)

        gradients = []
        for unpack in (lambda tensor: tensor, moved):
            torch.manual_seed(4)
            with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, unpack):
                readout = compiled_readout(model, features)
                gradients.append(torch.autograd.grad(readout.sum(), features)[0])
        assert torch.equal(*gradients)

    def test_it_can_be_differentiated_once(self) -> None:
        model = training_model(NARROW, torch.float32)
        features = features_for(model, 2, 7).requires_grad_()
        readout = compiled_readout(model, features)
        assert readout is not None
        (gradient,) = torch.autograd.grad(readout.square().sum(), features, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            gradient.sum().backward()

    def test_the_ops_are_registered_completely(self) -> None:
        model = training_model(NARROW, torch.float32).requires_grad_(False)
        features = features_for(model, 2, 7)
        weights, *shape = stack_arguments(model, features)
        noise = noise_for(model, features)
        ops = torch.ops.sparse_aasist
        arguments = (features, weights, noise, *shape)
        # Its memory has a size that only the kernels know, so tracing is left out: under
        # torch.compile the modules run.
        utilities = ("test_schema", "test_autograd_registration", "test_faketensor")
        torch.library.opcheck(ops.graph_stack_training.default, arguments, test_utils=utilities)
        readout, statistics, saved = ops.graph_stack_training.default(*arguments)
        backward = (torch.ones_like(readout), features, weights, noise, statistics, saved, *shape)
        torch.library.opcheck(
            ops.graph_stack_training_backward.default, backward, test_utils=utilities
        )

    @pytest.mark.parametrize(
        ("position", "change", "message"),
        [
            (1, lambda weights: weights[:-1], "weights must end"),
            (1, lambda weights: [*weights, *weights[-2:]], "wants 121 weights, got 123"),
            (1, lambda weights: [weights[0].double(), *weights[1:]], "weight 0"),
            (2, lambda noise: noise[:-1], "noise 17"),
            (2, lambda noise: [*noise, noise[0]], "wants 18 noises, got 19"),
            (2, lambda noise: [noise[0][:1], *noise[1:]], "noise 0"),
            (3, lambda kept: [8, *kept[1:]], "kept nodes"),
            (4, lambda temperatures: temperatures[1:], "temperatures"),
            (0, lambda features: features[0], "features must be"),
            (0, lambda features: features[:0], "two nodes or more"),
            (0, lambda features: features[:1], "noise 0"),
            (0, lambda features: features.half(), "float32 or float64"),
        ],
    )
    def test_bad_arguments_are_refused(self, position: int, change: Any, message: str) -> None:
        model = training_model(NARROW, torch.float32).requires_grad_(False)
        features = features_for(model, 2, 7)
        weights, *shape = stack_arguments(model, features)
        arguments: list[Any] = [features, weights, noise_for(model, features), *shape]
        arguments[position] = change(arguments[position])
        with pytest.raises(RuntimeError, match=message):
            torch.ops.sparse_aasist.graph_stack_training.default(*arguments)

    @pytest.mark.parametrize(
        ("position", "change", "message"),
        [
            (0, lambda grad: grad[:, :-1], "the gradient does not fit"),
            (4, lambda statistics: statistics[:-1], "statistic 11"),
            (5, lambda saved: saved[:-64], "has saved does not fit"),
            (5, lambda saved: saved.float(), "has saved does not fit"),
        ],
    )
    def test_bad_arguments_of_the_gradient(self, position: int, change: Any, message: str) -> None:
        model = training_model(NARROW, torch.float32).requires_grad_(False)
        features = features_for(model, 2, 7)
        weights, *shape = stack_arguments(model, features)
        noise = noise_for(model, features)
        ops = torch.ops.sparse_aasist
        readout, statistics, saved = ops.graph_stack_training.default(
            features, weights, noise, *shape
        )
        arguments: list[Any] = [readout, features, weights, noise, statistics, saved, *shape]
        arguments[position] = change(arguments[position])
        with pytest.raises(RuntimeError, match=message):
            ops.graph_stack_training_backward.default(*arguments)
