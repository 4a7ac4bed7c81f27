"""The engine: linear layers whose products skip the weights that are zero, where that is faster.

`use_sparse_layers` swaps a model's linear layers for `SparseLinear`, which share their parameters, so that names,
saved files and hashes stay what they were. A layer compresses its weight when it sees that the weight has changed, and
skips the zeros of activations instead (`openwork.kernels.linear`) while more of it is non-zero than `sparse_below` says
is worth it. So annealing starts dense and turns sparse by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from openwork import kernels
from openwork.kernels import (
    Product,
    SparseWeight,
    abs_topk,
    compress_below,
    gelu_abs_topk,
    library,
    linear,
    sparse_linears,
)

CROSSOVER = ((2**16, 1 / 3), (2**18, 1 / 6), (2**31 - 1, 1 / 8))
"""(entries of a weight, density below which skipping its zeros wins over skipping those of activations), measured by
`openwork bench kernels`; the kernels take no more entries."""

FEW_TOKENS = 4
"""Up to so many are faster one by one, skipping the zeros of each."""


def sparse_below(weight: Tensor) -> float:
    """The density below which a layer with this weight is faster sparse: 0 where the kernels cannot run."""
    if not kernels.native or weight.device.type != "cpu" or weight.dtype != torch.float32:
        return 0.0
    return next((density for entries, density in CROSSOVER if weight.numel() <= entries), 0.0)


def _count_fused_changes(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """PyTorch's fused optimizers change parameters without counting that."""
    for group in optimizer.param_groups:
        if group.get("fused"):
            for parameter in group["params"]:
                torch.autograd.graph.increment_version(parameter)


register_optimizer_step_post_hook(_count_fused_changes)


class SparseLinear(nn.Linear):
    """An nn.Linear over the same parameters, with the same results to rounding, that skips zero weights."""

    kept: SparseWeight | None
    """While set: the weights that count; `weight` may lag behind."""
    watched: SparseWeight | None
    """While set: the weights that get a gradient, ``watched.values.grad``; what is kept and some that are zero. Without
    it, all of `weight` gets one."""

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.kept = self.watched = None
        self._compressed: SparseWeight | None = None
        self._of_few: Product | None = None
        """The product of the compressed weight with a few tokens, as it was last wanted."""
        self._seen: tuple[Tensor, int, int] | None = None
        """The weight that was compressed, held so that no other takes its address, its address and its version. None
        after a weight that an autograd graph made, so that the graph can go."""

    def compressed(self) -> SparseWeight | None:
        """The non-zeros of the weight as it is now; None while it is too dense to gain from that.

        A change is seen that PyTorch counts, such as one under `torch.no_grad`; not one through ``.data`` or numpy.
        """
        weight, seen = self.weight, self._seen
        now = (weight.data_ptr(), -1 if weight.is_inference() else weight._version)
        if seen is None or weight is not seen[0] or now != seen[1:] or now[1] < 0:  # a run may bring its own weights
            below = sparse_below(weight)
            with torch.inference_mode(False):  # its tensors could not be used in training
                self._compressed = compress_below(weight, below) if below > 0 else None
            self._seen, self._of_few = (weight, *now) if weight.grad_fn is None else None, None
        return self._compressed

    def forward(self, input: Tensor) -> Tensor:
        """What the linear layer gives."""
        return self.abs_topk(input, 0, gelu=False)

    def abs_topk(self, input: Tensor, k: int, gelu: bool) -> Tensor:
        """AbsTopK of the outputs or, with `gelu`, of their GELU; all of the outputs if k is 0."""
        if product := self._product(input, k, gelu):
            return sparse_linears(input, [product])[0]
        y = linear(input, self.weight, self.bias, selected=k > 0)
        return y if k == 0 else gelu_abs_topk(y, k) if gelu else abs_topk(y, k)

    @staticmethod
    def together(layers: Sequence[SparseLinear], input: Tensor, ks: Sequence[int]) -> Sequence[Tensor]:
        """`abs_topk` of several layers that read the same input."""
        products = []
        for layer, k in zip(layers, ks, strict=True):
            if (product := layer._product(input, k, gelu=False)) is None:
                return [layer.abs_topk(input, k, gelu=False) for layer, k in zip(layers, ks, strict=True)]
            products.append(product)
        return sparse_linears(input, products)

    def _product(self, input: Tensor, k: int, gelu: bool) -> Product | None:
        """The product with the kept weights, or with those that are not zero; None where a dense one is faster."""
        if self.kept is not None:
            dense = self.weight if self.watched is None else None
            return Product(self.kept, self.bias, self.watched, dense, k, gelu)
        weight = None if library.tracing() else self.compressed()  # traced, the dense product
        if weight is None or torch.is_autocast_enabled(input.device.type):
            return None
        if torch.is_grad_enabled() or input.numel() > FEW_TOKENS * self.in_features:
            return Product(weight, self.bias, dense=self.weight, k=k, gelu=gelu)
        product, bias = self._of_few, self.bias
        if product is None or product.bias is not bias or product.k != k or product.gelu != gelu:
            by_input = weight.by_input() if product is None else product.by_input
            product = Product(weight, bias, k=k, gelu=gelu, by_input=by_input)
            self._of_few = product if bias is None or bias.grad_fn is None else None
        return product


def use_sparse_layers(model: nn.Module) -> list[SparseLinear]:
    """Swap every linear layer of `model` for a `SparseLinear`; returns these."""
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and not isinstance(module, SparseLinear):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, SparseLinear(module))
    return [module for module in model.modules() if isinstance(module, SparseLinear)]
