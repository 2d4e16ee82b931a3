"""Everything that computes graph ops, behind one interface, and the oracles they are held to."""

from __future__ import annotations

import copy
import struct
from typing import NamedTuple
from unittest import mock

import torch
from implementations import FORMATS, ON_DEVICE, Functions, Sanitized, on_device, unwritten
from stack_models import StackGradients, reference_readout, stack_gradients, with_statistics
from torch import Tensor

from sparse_aasist import AASIST
from sparse_aasist.models.graph_stack import graph_stack, stack_arguments
from sparse_aasist.ops import Master, graph_attention, graph_pool, hetero_graph_attention

STACK_LAUNCHES = 7
"""Of kernels, for all graphs of the model; a dozen are allowed."""

STACK_TRAINING_LAUNCHES = (22, 44)
"""Forward and backward."""


class Attention(NamedTuple):
    """Inputs of a call, in the order of the kernels; the last four are None without a master."""

    x: Tensor
    weight: Tensor
    bias: Tensor
    vectors: Tensor  # (1 or 3, hidden)
    master: Tensor | None = None
    master_weight: Tensor | None = None
    master_bias: Tensor | None = None
    master_vector: Tensor | None = None  # (1, hidden)

    def given(self) -> list[Tensor]:
        return [tensor for tensor in self if tensor is not None]


class AttentionResult(NamedTuple):
    """Outputs, then a gradient for each tensor given."""

    nodes: Tensor
    summary: Tensor | None
    gradients: list[Tensor]


class PoolResult(NamedTuple):
    """Output and gradients of graph_pool."""

    out: Tensor
    dh: Tensor
    dweight: Tensor
    dbias: Tensor


class GraphFunctions(Functions):
    """The public functions."""

    def attend(
        self,
        inputs: Attention,
        num_type1: int,
        temperature: float,
        grad: Tensor,
        grad_summary: Tensor | None,
    ) -> AttentionResult:
        given = [on_device(t, self.device).requires_grad_() for t in inputs.given()]
        with self.settings():
            nodes, summary = call(Attention(*given), num_type1, temperature)
            outputs = (
                [(nodes, grad)] if summary is None else [(nodes, grad), (summary, grad_summary)]
            )
            heads, grads = zip(*outputs, strict=True)
            grads = [on_device(g, self.device) for g in grads]
            gradients = torch.autograd.grad(heads, given, grads)
        summary = None if summary is None else summary.detach().cpu()
        return AttentionResult(nodes.detach().cpu(), summary, [g.cpu() for g in gradients])

    def pool(
        self,
        h: Tensor,
        weight: Tensor,
        bias: Tensor,
        ratio: float,
        scale: Tensor | None,
        grad: Tensor,
    ) -> PoolResult:
        inputs = [on_device(t, self.device).requires_grad_() for t in (h, weight, bias)]
        scale = None if scale is None else on_device(scale, self.device)
        with self.settings():
            out = graph_pool(*inputs, ratio, scale=scale)
            gradients = torch.autograd.grad(out, inputs, on_device(grad, self.device))
        return PoolResult(*(t.detach().cpu() for t in (out, *gradients)))

    def stack(self, model: AASIST, features: Tensor) -> Tensor:
        """Return the readout of the model, which has no gradient."""
        model, features = copy.deepcopy(model).to(self.device), on_device(features, self.device)
        with self.settings(), torch.no_grad():
            readout = graph_stack(model, features)
            assert (readout is None) == (self.backend == "reference")
            return (model._read_graphs(features) if readout is None else readout).cpu()

    def train(
        self, model: AASIST, features: Tensor, noise: list[Tensor], grad: Tensor
    ) -> StackGradients:
        """Run graphs forward and backward with this noise of dropout."""
        model = copy.deepcopy(model).to(self.device)
        features = on_device(features, self.device).requires_grad_()
        noise = [on_device(factors, self.device) for factors in noise]
        with self.settings():
            if self.backend == "reference":
                readout = reference_readout(model, features, noise)
            else:
                drawn = mock.patch("sparse_aasist.models.graph_stack.draw_noise", lambda *_: noise)
                with drawn:
                    readout = graph_stack(model, features)
                assert readout is not None
            return stack_gradients(model, features, readout, on_device(grad, self.device))


class GraphSanitized(Sanitized):
    """The kernels themselves."""

    def attend(
        self,
        inputs: Attention,
        num_type1: int,
        temperature: float,
        grad: Tensor,
        grad_summary: Tensor | None,
    ) -> AttentionResult:
        x = inputs.x
        batch, nodes, dim = x.shape
        real = torch.float64 if x.dtype is torch.float64 else torch.float32
        has_master = inputs.master is not None
        masters = batch if has_master else 0
        absent = torch.empty(0, dtype=x.dtype)
        arrays = [absent if t is None else t.contiguous() for t in inputs]
        shared = has_master and inputs.master.shape[0] != batch
        sizes = (batch, nodes, dim, inputs.weight.shape[0], num_type1, inputs.vectors.shape[0])
        (pattern,) = struct.unpack("q", struct.pack("d", temperature))
        scalars = (*self.where, FORMATS[x.dtype], *sizes, int(has_master), int(shared), pattern)
        outputs = (
            unwritten((batch, nodes, dim), x.dtype),
            unwritten((masters, 1, dim), x.dtype),
            unwritten((batch, nodes, nodes), real),
            unwritten((masters, nodes), real),
        )
        results = self.program.call("graph_attention", scalars, (*arrays, *outputs))
        out, summary, attention, master_attention = results[-4:]
        gradients = [unwritten(t.shape, x.dtype) for t in arrays]
        gradients[4] = unwritten((masters, 1, dim), x.dtype)
        given = absent if grad_summary is None else grad_summary
        written = (attention, master_attention, grad.contiguous(), given, *gradients)
        results = self.program.call("graph_attention_backward", scalars, (*arrays, *written))
        gradients = results[-8:] if has_master else results[-8:-4]
        if shared:
            gradients[4] = gradients[4].double().sum(0, keepdim=True).to(x.dtype)
        return AttentionResult(out, summary if has_master else None, gradients)

    def pool(
        self,
        h: Tensor,
        weight: Tensor,
        bias: Tensor,
        ratio: float,
        scale: Tensor | None,
        grad: Tensor,
    ) -> PoolResult:
        batch, nodes, dim = h.shape
        kept = max(int(nodes * ratio), 1)
        scale = torch.empty(0, dtype=h.dtype) if scale is None else scale.contiguous()
        inputs = (h.contiguous(), weight.contiguous(), bias, scale)
        scalars = (*self.where, FORMATS[h.dtype], batch, nodes, dim, kept)
        outputs = (
            unwritten((batch, kept, dim), h.dtype),
            unwritten((batch, kept), torch.float64),
            unwritten((batch, kept), torch.int32),
        )
        out, scores, indices = self.program.call("graph_pool", scalars, (*inputs, *outputs))[-3:]
        gradients = [unwritten(t.shape, h.dtype) for t in (h, weight, bias)]
        written = (scores, indices, grad.contiguous(), *gradients)
        results = self.program.call("graph_pool_backward", scalars, (*inputs, *written))
        return PoolResult(out, *results[-3:])

    def stack(self, model: AASIST, features: Tensor) -> Tensor:
        scalars, weights, readout = self._stack_call(model, features)
        launches = torch.zeros(1, dtype=torch.int64)
        arrays = (features.contiguous(), *weights, readout, launches)
        readout, launches = self.program.call("graph_stack", scalars, arrays)[-2:]
        if self.where[0] == ON_DEVICE:
            assert launches.item() == STACK_LAUNCHES
        return readout

    def train(
        self, model: AASIST, features: Tensor, noise: list[Tensor], grad: Tensor
    ) -> StackGradients:
        scalars, weights, readout = self._stack_call(model, features)
        widths = [model.config.gat_dims[0]] * 2 + [model.config.gat_dims[1]] * 4
        statistics = [unwritten((width,), features.dtype) for width in 2 * widths]
        gradients = [unwritten(t.shape, t.dtype) for t in (features, *weights)]
        launches = torch.zeros(2, dtype=torch.int64)
        inputs = (features.contiguous(), *weights, *(factors.contiguous() for factors in noise))
        outputs = (readout, *statistics, grad.contiguous(), *gradients, launches)
        results = self.program.call("graph_stack_training", scalars, (*inputs, *outputs))
        if self.where[0] == ON_DEVICE:
            assert tuple(results[-1].tolist()) == STACK_TRAINING_LAUNCHES
        results = results[len(inputs) : -1]
        readout, statistics = results[0], results[1 : 1 + len(statistics)]
        dfeatures, *gradients = results[2 + len(statistics) :]
        named = {id(parameter): name for name, parameter in model.named_parameters()}
        return StackGradients(
            readout,
            with_statistics(model, features, statistics),
            dfeatures,
            {named[id(w)]: g for w, g in zip(weights, gradients, strict=True)},
        )

    def _stack_call(
        self, model: AASIST, features: Tensor
    ) -> tuple[tuple[int, ...], list[Tensor], Tensor]:
        batch, channels, bands, steps = features.shape
        weights, kept, *reals = stack_arguments(model, features)
        dim, hidden = model.config.gat_dims
        patterns = [struct.unpack("q", struct.pack("d", x))[0] for part in reals for x in part]
        sizes = (batch, channels, bands, steps, dim, hidden, *kept)
        scalars = (*self.where, FORMATS[features.dtype], *sizes, *patterns)
        return scalars, weights, unwritten((batch, 5 * hidden), features.dtype)


def runs_on_device(implementation: GraphFunctions | GraphSanitized) -> bool:
    """Tell whether an implementation has what a GPU has: graph_stack in float32 only."""
    if isinstance(implementation, GraphSanitized):
        return implementation.where[0] == ON_DEVICE
    return implementation.device == "cuda"


def call(inputs: Attention, num_type1: int, temperature: float) -> tuple[Tensor, Tensor | None]:
    """Call the public function for these inputs."""
    x, weight, bias, vectors, *of_master = inputs
    if vectors.shape[0] == 1:
        return graph_attention(x, weight, bias, vectors[0], temperature), None
    master = None
    if of_master[0] is not None:
        master = Master(*of_master[:3], of_master[3][0])
    return hetero_graph_attention(x, num_type1, weight, bias, vectors, temperature, master)


def expected_attention(
    inputs: Attention,
    num_type1: int,
    temperature: float,
    grad: Tensor,
    grad_summary: Tensor | None,
) -> AttentionResult:
    """Compute in float64, pair after pair, and let autograd find the gradients."""
    given = [t.detach().double().requires_grad_() for t in inputs.given()]
    x, weight, bias, vectors, *of_master = given
    batch, nodes, _ = x.shape
    read = []
    for clip in range(batch):
        rows = []
        for i in range(nodes):
            hidden = torch.tanh((x[clip, i] * x[clip]) @ weight.t() + bias)
            chosen = [_vector(vectors, i < num_type1, j < num_type1) for j in range(nodes)]
            scores = (hidden * torch.stack(chosen)).sum(1) / temperature
            rows.append(torch.softmax(scores, 0) @ x[clip])
        read.append(torch.stack(rows))
    outputs = [torch.stack(read) if read else x * 1.0]
    grads = [grad.double()]
    if of_master:
        master, master_weight, master_bias, master_vector = of_master
        hidden = torch.tanh((x * master) @ master_weight.t() + master_bias)
        probabilities = torch.softmax((hidden * master_vector[0]).sum(2) / temperature, 1)
        outputs.append((probabilities.unsqueeze(2) * x).sum(1, keepdim=True))
        grads.append(grad_summary.double())
    gradients = torch.autograd.grad(outputs, given, grads, allow_unused=True)
    gradients = [
        torch.zeros_like(t) if g is None else g for t, g in zip(given, gradients, strict=True)
    ]
    outputs = [output.detach() for output in outputs]
    return AttentionResult(outputs[0], outputs[1] if of_master else None, gradients)


def _vector(vectors: Tensor, first_is_1: bool, second_is_1: bool) -> Tensor:
    """Choose by the types of a pair; rows of `vectors` are for 11, 22 and 12."""
    if vectors.shape[0] == 1 or (first_is_1 and second_is_1):
        return vectors[0]
    return vectors[2] if first_is_1 != second_is_1 else vectors[1]


def expected_pool(
    h: Tensor, weight: Tensor, bias: Tensor, ratio: float, scale: Tensor | None, grad: Tensor
) -> PoolResult:
    """Compute in float64 but for the scores, which are ranked in the dtype of h, by sorting."""
    inputs = [t.detach().double().requires_grad_() for t in (h, weight, bias)]
    nodes, vector, offset = inputs
    scored = nodes if scale is None else nodes * scale.double()
    scores = torch.sigmoid((scored * vector).sum(2) + offset)
    # The kernels scale by the rounded score.
    rounded = scores + (scores.to(h.dtype).double() - scores).detach()
    kept = max(int(h.shape[1] * ratio), 1)
    rows = []
    for clip, row in enumerate(rounded.tolist()):
        # NaN is unequal to itself: (False, ...) sorts it first, and no NaN is ever compared.
        order = sorted(
            range(len(row)),
            key=lambda i, row=row: (False, 0.0) if row[i] != row[i] else (True, -row[i]),
        )
        rows += [nodes[clip, i] * rounded[clip, i] for i in order[:kept]]
    out = torch.stack(rows).reshape(-1, kept, h.shape[2]) if rows else nodes[:, :kept] * 1.0
    gradients = torch.autograd.grad(out, inputs, grad.double(), allow_unused=True)
    gradients = [
        torch.zeros_like(t) if g is None else g for t, g in zip(inputs, gradients, strict=True)
    ]
    return PoolResult(out.detach(), *gradients)


def assert_close_to_largest(
    got: Tensor, expected: Tensor, dtype: torch.dtype, tolerance: float, name: str
) -> None:
    """Compare on the scale of the largest entry: the entries of a gradient have one scale."""
    assert got.shape == expected.shape and got.dtype == dtype, name
    if expected.numel() == 0:
        return
    scale = max(expected.abs().max().item(), 1e-2)  # the gradient of a bias may nearly vanish
    error = (got.double() - expected).abs().max().item() / scale
    assert error <= tolerance, f"{name}: {error:.1e} of the largest"
