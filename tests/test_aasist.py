"""The traps of AASIST one by one, its sizes, and its behaviour on bad input."""

from __future__ import annotations

import copy
from functools import partial

import numpy as np
import pytest
import torch

from sparse_aasist import AASIST
from sparse_aasist.errors import SparseAasistError
from sparse_aasist.models.config import AASISTConfig
from sparse_aasist.models.encoder import ResidualBlock, normalise_one_channel
from sparse_aasist.models.graph import GraphAttention, GraphPool, HeteroGraphAttention
from sparse_aasist.ops import backend

SHORTEST = 2315


@pytest.fixture(scope="module")
def model() -> AASIST:
    torch.manual_seed(0)
    return AASIST(dim=160).eval()


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        ({"dim": 160}, 297_866),
        ({"dim": 320}, 373_706),
        (
            {
                "dim": 160,
                "gat_dim": 24,
                "filts": (70, (1, 32), (32, 32), (32, 24), (24, 24)),
                "pool_ratios": (0.4, 0.5, 0.7, 0.5),
            },
            85_306,
        ),
    ],
)
def test_parameter_counts_are_the_published_ones(options, parameters):
    model = AASIST(**options)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert len(model.state_dict()) == 229


def test_shortest_input_is_scored_and_one_sample_less_is_refused(model):
    assert model.min_samples == SHORTEST
    with torch.no_grad():
        assert torch.isfinite(model(torch.randn(2, SHORTEST)).logits).all()
    with pytest.raises(SparseAasistError, match="2314 samples; the model needs at least 2315"):
        model(torch.randn(1, SHORTEST - 1))


@pytest.mark.parametrize(
    "waveform",
    [
        torch.zeros(4000),
        torch.zeros(1, 1, 4000),
        torch.zeros(1, 4000, dtype=torch.int16),
        torch.zeros(1, 4000, dtype=torch.float64),
    ],
)
def test_wrong_waveform_shape_or_dtype_is_refused(model, waveform):
    with pytest.raises(SparseAasistError, match=r"waveform must be .*\(batch, samples\)"):
        model(waveform)


def test_rows_of_a_batch_do_not_influence_each_other_in_eval(model):
    waveform = torch.randn(3, 8000)
    with torch.no_grad():
        together, alone = model(waveform).logits, model(waveform[1:2]).logits
    torch.testing.assert_close(together[1:2], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 161}, "dim must be a positive multiple of 5 .* got 161"),
        ({"dim": 0}, "dim must be"),
        ({"k": 0}, "k must be between 1 and dim = 160"),
        ({"k": 161}, "k must be between 1 and dim = 160.* got 161"),
        ({"k": 20.0}, "k must be"),
        ({"topk_by": "rank"}, "topk_by must be one of"),
        ({"topk_order": "never"}, "topk_order must be one of"),
        ({"pool_ratios": (0.5, 0.0, 0.5)}, "pool_ratios"),
        ({"temperatures": (2.0, -1.0, 100.0)}, "temperatures"),
        ({"filts": (70, (1, 32), (16, 32), (32, 64), (64, 64))}, "filts must be"),
        ({"first_conv": 0}, "first_conv"),
        ({"gat_dims": (64, 32)}, "unknown model configuration key gat_dims"),
    ],
)
def test_bad_configuration_names_the_argument(options, message):
    with pytest.raises(SparseAasistError, match=message):
        AASIST(**{"dim": 160, **options})


def test_config_survives_json_forms():
    config = AASISTConfig(dim=320, k=20, sigmoid=True)
    listed = {k: list(v) if isinstance(v, tuple) else v for k, v in config.to_dict().items()}
    assert AASISTConfig.from_dict(listed) == config


@pytest.mark.parametrize("momentum", [0.1, None])
def test_bn1_moves_only_its_running_statistics(momentum):
    block = ResidualBlock(4, 4).train()
    x = torch.randn(3, 4, 5, 12) * 2 + 1
    reference = torch.nn.BatchNorm2d(4, momentum=momentum).train()
    block.bn1.momentum = momentum
    for scale in (3, 1):
        reference(x * scale)
        before = block(x * scale).detach()
    torch.testing.assert_close(block.bn1.running_mean, reference.running_mean)
    torch.testing.assert_close(block.bn1.running_var, reference.running_var)
    assert block.bn1.num_batches_tracked == 2
    with torch.no_grad():
        block.bn1.weight.mul_(100.0)
    torch.testing.assert_close(block(x), before, msg="bn1 must not reach the output")


def test_one_channel_is_normalised_as_by_the_module():
    torch.manual_seed(0)
    bn = torch.nn.BatchNorm2d(1).double()
    torch.nn.init.normal_(bn.weight)
    torch.nn.init.normal_(bn.bias)
    other = copy.deepcopy(bn)
    x = torch.randn(3, 1, 5, 70, dtype=torch.float64).add(4).requires_grad_()
    grad = torch.randn_like(x)
    results = []
    for module, function in ((bn, bn), (other, partial(normalise_one_channel, other))):
        for _ in range(2):
            out = function(x)
        results.append((out, *torch.autograd.grad(out, [x, *module.parameters()], grad)))
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    for got, expected in zip(other.buffers(), bn.buffers(), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_eval_does_not_run_bn1():
    block = ResidualBlock(4, 4)
    block.eval()(torch.randn(2, 4, 5, 12))
    assert block.bn1.num_batches_tracked == 0 and block.bn1.running_mean.eq(0).all()


def test_pool_returns_the_best_nodes_in_descending_score_order():
    pool = GraphPool(2, 0.5).eval()
    with torch.no_grad():
        pool.proj.weight.copy_(torch.tensor([[1.0, 0.0]]))
        pool.proj.bias.zero_()
    nodes = torch.tensor([[[0.0, 1.0], [2.0, 2.0], [-1.0, 3.0], [1.0, 4.0], [2.0, 5.0]]])
    kept = pool(nodes)
    sigmoid = 1 / (1 + np.exp(-2.0))
    # int(5 * 0.5) = 2 nodes; the two with score sigmoid(2) tie and keep their index order.
    expected = sigmoid * nodes[:, [1, 4]]
    torch.testing.assert_close(kept, expected)


def test_pool_keeps_one_node_at_least_and_floors_in_floating_point():
    pool = GraphPool(3, 0.7).eval()
    assert pool(torch.randn(1, 29, 3)).shape[1] == 20
    assert pool(torch.randn(1, 1, 3)).shape[1] == 1


def test_pool_gathers_undropped_nodes():
    torch.manual_seed(1)
    pool = GraphPool(8, 1.0).train()
    nodes = torch.randn(1, 6, 8)
    kept = pool(nodes)
    # Every kept node is an input node times its score: the ratio is constant along the node.
    ratio = kept.unsqueeze(2) / nodes.unsqueeze(1)
    matches = (ratio.amax(-1) - ratio.amin(-1)).abs() < 1e-4
    assert matches.any(dim=2).all()


def test_attention_is_a_softmax_over_the_second_node_axis():
    torch.manual_seed(2)
    layer = GraphAttention(4, 3, temperature=2.0).double().eval()
    x = torch.randn(2, 5, 4, dtype=torch.float64)
    out = torch.empty(2, 5, 3, dtype=torch.float64)
    for b in range(2):
        for i in range(5):
            scores = torch.stack(
                [torch.tanh(layer.att_proj(x[b, i] * x[b, j])) @ layer.att_weight for j in range(5)]
            )
            weights = (scores.squeeze(1) / 2.0).softmax(dim=0)
            mixed = layer.proj_with_att(weights @ x[b]) + layer.proj_without_att(x[b, i])
            out[b, i] = torch.selu(mixed / (1 + layer.bn.eps) ** 0.5)
    torch.testing.assert_close(layer(x), out)


def test_hetero_attention_uses_one_vector_per_pair_of_types_and_a_broadcast_master():
    torch.manual_seed(3)
    layer = HeteroGraphAttention(4, 3, temperature=5.0).double().eval()
    x1 = torch.randn(2, 3, 4, dtype=torch.float64)
    x2 = torch.randn(2, 2, 4, dtype=torch.float64)
    master = torch.randn(1, 1, 4, dtype=torch.float64)
    joined = torch.cat([layer.proj_type1(x1), layer.proj_type2(x2)], dim=1)
    vectors = {
        (0, 0): layer.att_weight11,
        (1, 1): layer.att_weight22,
        (0, 1): layer.att_weight12,
        (1, 0): layer.att_weight12,
    }
    expected = torch.empty(2, 5, 3, dtype=torch.float64)
    for b in range(2):
        x = joined[b]
        for i in range(5):
            scores = torch.cat(
                [
                    torch.tanh(layer.att_proj(x[i] * x[j])) @ vectors[int(i >= 3), int(j >= 3)]
                    for j in range(5)
                ]
            )
            mixed = layer.proj_with_att((scores / 5.0).softmax(0) @ x) + layer.proj_without_att(
                x[i]
            )
            expected[b, i] = torch.selu(mixed / (1 + layer.bn.eps) ** 0.5)
    attention = ((torch.tanh(layer.att_projM(joined * master)) @ layer.att_weightM) / 5.0).softmax(
        1
    )
    summary = layer.proj_with_attM((attention * joined).sum(1, keepdim=True))
    out1, out2, new_master = layer(x1, x2, master)
    torch.testing.assert_close(torch.cat([out1, out2], dim=1), expected)
    torch.testing.assert_close(new_master, summary + layer.proj_without_attM(master))


def test_the_master_is_never_dropped_out():
    layer = HeteroGraphAttention(4, 3, temperature=5.0).train()
    layer.input_drop.p = 1.0
    master = torch.randn(1, 1, 4)
    zeros = torch.zeros(1, 2, 4)
    updated = layer(torch.randn(1, 3, 4), torch.randn(1, 2, 4), master)[2]
    # With every node dropped only the master's own path is left.
    expected = layer.proj_with_attM(zeros[:, :1]) + layer.proj_without_attM(master)
    torch.testing.assert_close(updated, expected)


@pytest.mark.parametrize("samples", [2315, 2400, 30_001, 250_000])
def test_kernels_and_reference_agree_at_any_length(model, samples):
    waveform = 0.1 * torch.randn(2, samples, generator=torch.Generator().manual_seed(samples))
    with torch.no_grad():
        got = model(waveform)
        with backend("reference"):
            expected = model(waveform)
    torch.testing.assert_close(got.logits, expected.logits, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_the_graph_half_compiles_as_one_graph(model):
    features = torch.randn(2, 64, 23, 29, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model._classify(features)
        got = torch.compile(model._classify, fullgraph=True)(features)
    torch.testing.assert_close(tuple(got), tuple(expected))


def test_only_the_third_ratio_and_temperature_serve_the_heterogeneous_half():
    waveform = torch.randn(1, 8000)
    outputs = []
    for last in (0.5, 0.9):
        torch.manual_seed(5)
        model = AASIST(pool_ratios=(0.5, 0.7, 0.5, last), temperatures=(2, 2, 100, last)).eval()
        with torch.no_grad():
            outputs.append(model(waveform).logits)
    assert torch.equal(*outputs)
    for layer in (model.HtrgGAT_layer_ST11, model.HtrgGAT_layer_ST22):
        assert layer.temperature == 100.0
    assert model.GAT_layer_S.temperature == 2.0


def test_dropout_sits_where_the_paper_code_has_it(model):
    probabilities = {
        name: module.p
        for name, module in model.named_modules()
        if type(module).__name__ == "Dropout"
    }
    groups = {"input_drop": 0.2, "drop_way": 0.2, "pool": 0.3, "head": 0.5}
    assert len(probabilities) == 6 + 6 + 2
    for name, p in probabilities.items():
        assert p == next(value for key, value in groups.items() if key in name), name
