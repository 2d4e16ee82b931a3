"""The sparse last hidden layer: the paper's default and every option, in training and inference."""

from __future__ import annotations

import importlib

import pytest
import torch

from sparse_aasist import AASIST
from sparse_aasist.models.config import AASISTConfig
from sparse_aasist.models.head import SparseEmbedding, zero_fraction


def head(training: bool = False, **options) -> SparseEmbedding:
    return SparseEmbedding(AASISTConfig(**{"dim": 10, "k": 3, **options})).train(training)


HIDDEN = torch.tensor([[0.5, -9.0, 2.0, 0.1, 2.0, -0.2, 0.5, 0.0, -3.0, 0.5]])


def test_default_keeps_the_k_highest_and_the_lowest_index_at_ties():
    embedding, dropped = head()(HIDDEN)
    expected = torch.tensor([[0.5, 0, 2.0, 0, 2.0, 0, 0, 0, 0, 0]])
    assert torch.equal(embedding, expected)
    assert torch.equal(dropped, expected), "no dropout in inference"


def test_abs_keeps_the_largest_magnitudes_with_their_sign():
    embedding, _ = head(topk_by="abs")(HIDDEN)
    assert torch.equal(embedding, torch.tensor([[0, -9.0, 2.0, 0, 0, 0, 0, 0, -3.0, 0]]))


@pytest.mark.parametrize("k", [None, 10])
def test_dense_baseline_changes_nothing(k):
    embedding, _ = head(k=k)(HIDDEN)
    assert torch.equal(embedding, HIDDEN)


def test_sigmoid_first_ranks_the_preactivation_where_float32_saturates():
    hidden = torch.tensor([[20.0, 30.0, 25.0, -1.0, 40.0, 0.0, -5.0, -6.0, -7.0, -8.0]])
    assert (torch.sigmoid(hidden) == 1).sum() == 4, "the sigmoid alone would tie"
    embedding, _ = head(sigmoid=True)(hidden)
    expected = torch.zeros(1, 10)
    expected[0, [1, 2, 4]] = torch.sigmoid(hidden)[0, [1, 2, 4]]
    assert torch.equal(embedding, expected)


def test_topk_comes_before_dropout_by_default():
    torch.manual_seed(0)
    hidden = torch.randn(200, 10)
    embedding, dropped = head(training=True)(hidden)
    assert (embedding != 0).sum() == 200 * 3, "the embedding is read before dropout"
    survivors = dropped != 0
    torch.testing.assert_close(dropped[survivors], 2 * embedding[survivors])
    assert 0.4 < survivors.sum() / 600 < 0.6


@pytest.mark.parametrize("sigmoid", [False, True])
def test_topk_after_dropout_selects_among_the_survivors(sigmoid):
    torch.manual_seed(0)
    hidden = torch.rand(200, 10) + 1.0
    layer = head(training=True, topk_order="after_dropout", sigmoid=sigmoid)
    embedding, classified = layer(hidden)
    assert embedding is classified
    torch.manual_seed(0)
    hidden = torch.rand(200, 10) + 1.0
    dropped = layer.drop(torch.sigmoid(hidden) if sigmoid else hidden)
    for row, reference in zip(embedding, dropped, strict=True):
        kept = reference.sort(descending=True, stable=True).values[:3]
        assert torch.equal(row.sort(descending=True).values[:3], kept)


def test_gradient_is_identity_on_kept_entries_and_zero_elsewhere():
    hidden = HIDDEN.clone().requires_grad_()
    embedding, _ = head()(hidden)
    embedding.sum().backward()
    assert torch.equal(hidden.grad, torch.tensor([[1.0, 0, 1, 0, 1, 0, 0, 0, 0, 0]]))


def test_gradient_reaches_a_kept_zero():
    hidden = torch.tensor([[0.0, -1, -2, -3, -4, -5, -6, -7, -8, -9]], requires_grad=True)
    embedding, _ = head(k=1)(hidden)
    embedding.sum().backward()
    assert hidden.grad[0, 0] == 1


def test_zero_fraction_is_measured_not_nominal():
    assert zero_fraction(torch.tensor([[1.0, 0.0], [2.0, 3.0]])).tolist() == [0.5, 0.0]
    # A kept entry that is zero counts as zero: 8 zeros although k / D = 0.3.
    embedding, _ = head()(torch.tensor([[2.0, 1.0, 0.0] + [-1.0] * 7]))
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


def test_training_step_is_the_same_on_kernels_and_on_the_reference(monkeypatch):
    """Same seed, dropout on: the backend of TopK must not show in loss, gradients or weights."""
    module = importlib.import_module("sparse_aasist.ops.topk_activation")
    waveform = torch.randn(4, 4000, generator=torch.Generator().manual_seed(1))

    def step() -> tuple[float, dict[str, torch.Tensor]]:
        torch.manual_seed(0)
        model = AASIST(dim=320, k=20).train()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        loss = torch.nn.functional.cross_entropy(model(waveform).logits, torch.tensor([0, 1, 1, 0]))
        loss.backward()
        optimizer.step()
        return loss.item(), model.state_dict()

    loss, weights = step()
    monkeypatch.setattr(module, "use_kernel", lambda _op, _device: False)
    reference_loss, reference_weights = step()
    assert loss == reference_loss
    assert all(torch.equal(weights[name], reference_weights[name]) for name in weights)
