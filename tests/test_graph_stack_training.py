"""graph_stack in training: every implementation against the modules, in float64.

Readout, running statistics, and the gradients of features and of every weight, with the same noise
of dropout.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from graph_implementations import (
    GraphFunctions,
    GraphSanitized,
    assert_close_to_largest,
    runs_on_device,
)
from implementations import ON_DEVICE, SCHEDULES
from stack_models import (
    CASES,
    NARROW,
    StackGradients,
    expected_training,
    features_for,
    noise_for,
    training_model,
)
from torch import Tensor, nn

from sparse_aasist import AASIST

Implementation = GraphFunctions | GraphSanitized

# Of the largest entry. In float32 sums over all nodes of a batch cancel behind normalisations.
TOLERANCE = {torch.float64: 1e-11, torch.float32: 3e-4}

# Biases that a normalisation behind them takes away.
LOST = ("proj_with_att.bias", "proj_without_att.bias")


def check(
    implementation: Implementation, model: AASIST, features: Tensor, noise: list[Tensor]
) -> StackGradients:
    generator = torch.Generator().manual_seed(1)
    shape = (features.shape[0], 5 * model.config.gat_dims[1])
    grad = torch.randn(shape, generator=generator, dtype=torch.float64).to(features.dtype)
    got = implementation.train(model, features, noise, grad)
    expected = expected_training(model, features, noise, grad)
    tolerance = TOLERANCE[features.dtype]

    def compare(name: str, a: Tensor, b: Tensor) -> None:
        assert_close_to_largest(a, b, features.dtype, tolerance, name)

    compare("readout", got.readout, expected.readout)
    compare("features", got.features, expected.features)
    assert got.weights.keys() == expected.weights.keys()
    for name, gradient in expected.weights.items():
        if name.endswith(LOST):
            # 0 but for rounding, in PyTorch that of sums of gradients as large as the weight's.
            largest = expected.weights[name.replace("bias", "weight")].abs().max().item()
            rest = got.weights[name].abs().max().item()
            assert rest <= tolerance * max(largest, 1e-2), name
        else:
            compare(name, got.weights[name], gradient)
    assert got.statistics.keys() == expected.statistics.keys()
    for name, buffer in expected.statistics.items():
        if buffer.dtype == torch.int64:
            assert torch.equal(got.statistics[name], buffer), name
        else:
            compare(name, got.statistics[name], buffer)
    return got


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_random(graph: Implementation, case: str, dtype: torch.dtype) -> None:
    if dtype is torch.float64 and runs_on_device(graph):
        pytest.skip("a GPU computes graph_stack in float32 only")
    config, batch, steps = CASES[case]
    model = training_model(config, dtype)
    features = features_for(model, batch, steps)
    check(graph, model, features, noise_for(model, features))


def test_equal_scores_keep_the_lowest_nodes(graph: Implementation) -> None:
    model = training_model(NARROW, torch.float32)
    for pool in (model.pool_S, model.pool_T, model.pool_hS1, model.pool_hT2):
        nn.init.zeros_(pool.proj.weight)
    features = features_for(model, 2, 7)
    check(graph, model, features, noise_for(model, features))


def test_nothing_dropped(graph: Implementation) -> None:
    model = training_model(NARROW, torch.float32)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    features = features_for(model, 3, 7)
    noise = noise_for(model, features)
    assert all(bool((factors == 1).all()) for factors in noise)
    check(graph, model, features, noise)


def test_all_dropped_before_the_readout(graph: Implementation) -> None:
    # Equal branches share the gradient; what is 0 everywhere has no sign.
    model = training_model(NARROW, torch.float32)
    model.drop_way.p = 1.0
    features = features_for(model, 2, 7)
    got = check(graph, model, features, noise_for(model, features))
    assert torch.equal(got.readout, torch.zeros_like(got.readout))
    assert torch.equal(got.features, torch.zeros_like(got.features))


def test_the_first_of_equal_magnitudes_has_the_gradient(graph: Implementation) -> None:
    model = training_model(NARROW, torch.float32)
    # Of both signs: the gradient goes with the sign. Zeros have none.
    features = features_for(model, 2, 7).sign()
    features[:, :, 0] = 0
    check(graph, model, features, noise_for(model, features))


def test_features_in_another_layout(graph: Implementation) -> None:
    model = training_model(NARROW, torch.float32)
    features = features_for(model, 2, 14)[..., ::2].to(memory_format=torch.channels_last)
    check(graph, model, features, noise_for(model, features))


def test_nan_reaches_every_clip(graph: Implementation) -> None:
    # Through the statistics of the batch, as it does through PyTorch's.
    model = training_model(NARROW, torch.float32)
    features = features_for(model, 3, 7)
    features[1, 2, 1, 3] = torch.nan
    noise = noise_for(model, features)
    got = graph.train(model, features, noise, torch.ones(3, 35))
    assert got.readout[:, :28].isnan().all()  # the masters have no statistics


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_device_code_under_every_schedule(graph_program: Any, schedule: str) -> None:
    implementation = GraphSanitized(graph_program, ON_DEVICE, schedule)
    model = training_model(NARROW, torch.float32)
    features = features_for(model, 3, 7)
    check(implementation, model, features, noise_for(model, features))
