"""The sparse last hidden layer: the paper's default and every option, in training and inference."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sparse_aasist import AASIST
from sparse_aasist.models.config import AASISTConfig
from sparse_aasist.models.head import SparseHead, zero_fraction
from sparse_aasist.ops import backend

# Its logits are what it is given.
IDENTITY = nn.Linear(10, 10)
nn.init.eye_(IDENTITY.weight)
nn.init.zeros_(IDENTITY.bias)


def head(hidden: Tensor, training: bool = False, **options) -> tuple[Tensor, Tensor]:
    """Return the embedding and what the classifier sees of it."""
    layer = SparseHead(AASISTConfig(**{"dim": 10, "k": 3, **options})).train(training)
    return layer(hidden, IDENTITY)


HIDDEN = torch.tensor([[0.5, -9.0, 2.0, 0.1, 2.0, -0.2, 0.5, 0.0, -3.0, 0.5]])


def test_default_keeps_the_k_highest_and_the_lowest_index_at_ties():
    embedding, dropped = head(HIDDEN)
    expected = torch.tensor([[0.5, 0, 2.0, 0, 2.0, 0, 0, 0, 0, 0]])
    assert torch.equal(embedding, expected)
    assert torch.equal(dropped, expected), "no dropout in inference"


def test_abs_keeps_the_largest_magnitudes_with_their_sign():
    embedding, _ = head(HIDDEN, topk_by="abs")
    assert torch.equal(embedding, torch.tensor([[0, -9.0, 2.0, 0, 0, 0, 0, 0, -3.0, 0]]))


@pytest.mark.parametrize("k", [None, 10])
def test_dense_baseline_changes_nothing(k):
    embedding, classified = head(HIDDEN, k=k)
    assert torch.equal(embedding, HIDDEN)
    torch.testing.assert_close(classified, HIDDEN)


def test_sigmoid_first_ranks_the_preactivation_where_float32_saturates():
    hidden = torch.tensor([[20.0, 30.0, 25.0, -1.0, 40.0, 0.0, -5.0, -6.0, -7.0, -8.0]])
    assert (torch.sigmoid(hidden) == 1).sum() == 4, "the sigmoid alone would tie"
    embedding, classified = head(hidden, sigmoid=True)
    expected = torch.zeros(1, 10)
    expected[0, [1, 2, 4]] = torch.sigmoid(hidden)[0, [1, 2, 4]]
    assert torch.equal(embedding, expected)
    torch.testing.assert_close(classified, expected)


@pytest.mark.parametrize("sigmoid", [False, True])
def test_topk_comes_before_dropout_by_default(sigmoid):
    torch.manual_seed(0)
    hidden = torch.randn(200, 10)
    embedding, dropped = head(hidden, training=True, sigmoid=sigmoid)
    assert (embedding != 0).sum() == 200 * 3, "the embedding is read before dropout"
    survivors = dropped != 0
    torch.testing.assert_close(dropped[survivors], 2 * embedding[survivors])
    assert 0.4 < survivors.sum() / 600 < 0.6


@pytest.mark.parametrize("sigmoid", [False, True])
def test_topk_after_dropout_selects_among_the_survivors(sigmoid):
    hidden = torch.rand(200, 10) + 1.0
    torch.manual_seed(0)
    embedding, classified = head(hidden, training=True, topk_order="after_dropout", sigmoid=sigmoid)
    torch.testing.assert_close(classified, embedding)
    torch.manual_seed(0)
    dropped = nn.functional.dropout(torch.sigmoid(hidden) if sigmoid else hidden, 0.5)
    for row, reference in zip(embedding, dropped, strict=True):
        kept = reference.sort(descending=True, stable=True).values[:3]
        assert torch.equal(row.sort(descending=True).values[:3], kept)


def test_dropout_draws_as_a_layer_behind_topk_would():
    hidden = torch.randn(50, 10, requires_grad=True)
    torch.manual_seed(3)
    embedding, classified = head(hidden, training=True)
    torch.manual_seed(3)
    expected = nn.functional.dropout(embedding, 0.5)
    torch.testing.assert_close(classified, expected)
    weights = torch.randn(50, 10)
    grads = [
        torch.autograd.grad((out * weights).sum(), hidden, retain_graph=True)[0]
        for out in (classified, expected)
    ]
    torch.testing.assert_close(*grads)


def test_gradient_is_identity_on_kept_entries_and_zero_elsewhere():
    hidden = HIDDEN.clone().requires_grad_()
    embedding, _ = head(hidden)
    embedding.sum().backward()
    assert torch.equal(hidden.grad, torch.tensor([[1.0, 0, 1, 0, 1, 0, 0, 0, 0, 0]]))


def test_gradient_reaches_a_kept_zero():
    hidden = torch.tensor([[0.0, -1, -2, -3, -4, -5, -6, -7, -8, -9]], requires_grad=True)
    embedding, _ = head(hidden, k=1)
    embedding.sum().backward()
    assert hidden.grad[0, 0] == 1


def test_zero_fraction_is_measured_not_nominal():
    assert zero_fraction(torch.tensor([[1.0, 0.0], [2.0, 3.0]])).tolist() == [0.5, 0.0]
    # A kept entry that is zero counts as zero: 8 zeros although k / D = 0.3.
    embedding, _ = head(torch.tensor([[2.0, 1.0, 0.0] + [-1.0] * 7]))
    assert zero_fraction(embedding).item() == pytest.approx(0.8)


def test_model_embedding_has_k_values_in_both_modes():
    torch.manual_seed(0)
    model = AASIST(dim=320, k=20)
    waveform = torch.randn(2, 4000)
    for training in (True, False):
        embedding, logits = model.train(training)(waveform)
        assert ((embedding != 0).sum(dim=1) == 20).all()
        assert (zero_fraction(embedding) == 1 - 20 / 320).all()
    torch.testing.assert_close(logits, model.out_layer(embedding))


def test_a_classifier_with_a_hook_or_of_another_kind_is_called() -> None:
    layer = SparseHead(AASISTConfig(dim=10, k=3)).eval()
    classifier, seen = nn.Linear(10, 2), []
    expected = layer(HIDDEN, classifier)
    handle = classifier.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs))
    hooked = layer(HIDDEN, classifier)
    handle.remove()
    torch.testing.assert_close(hooked, expected)
    assert torch.equal(seen[0][0], expected[0])
    torch.testing.assert_close(layer(HIDDEN, nn.Sequential(classifier)), expected)


def test_dropout_alone_can_be_switched_on() -> None:
    """Monte Carlo dropout: the rest of the model is in evaluation mode."""
    layer = SparseHead(AASISTConfig(dim=10, k=10 - 1)).eval()
    layer.drop.train()
    torch.manual_seed(0)
    _, classified = layer(torch.rand(50, 10) + 1, IDENTITY)
    assert 0.3 < (classified.abs() < 1e-6).float().mean() < 0.8


@pytest.mark.parametrize("order", ["before_dropout", "after_dropout"])
def test_training_step_is_the_same_on_kernels_and_on_the_reference(order):
    """Same seed, dropout on: the backend may show in the last bits of loss and gradients only."""
    waveform = torch.randn(4, 4000, generator=torch.Generator().manual_seed(1))

    def step() -> tuple[Tensor, Tensor]:
        torch.manual_seed(0)
        model = AASIST(dim=320, k=20, topk_order=order).train()
        loss = nn.functional.cross_entropy(model(waveform).logits, torch.tensor([0, 1, 1, 0]))
        loss.backward()
        grads = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        return loss.detach(), torch.cat(grads)

    loss, grads = step()
    with backend("reference"):
        reference_loss, reference_grads = step()
    torch.testing.assert_close(loss, reference_loss, rtol=1e-5, atol=0)
    assert (grads - reference_grads).norm() < 1e-3 * reference_grads.norm()
