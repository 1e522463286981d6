"""Counting floating-point operations as they are dispatched, whatever the module looks like.

Matrix products, convolutions and attention follow torch's own convention (a multiply-add is two operations), and
agree with ``torch.utils.flop_counter``. Unlike it, element-wise operations and reductions count as well, and
attention counts on every backend.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

SOFTMAX = 5  # Operations an element: maximum, difference, exponential, sum, quotient.
NORM = 8  # Mean, difference, square, sum, root, quotient, scale, shift.

Rule = Callable[[Any, Any], tuple[float, float]]


def _product(first: int) -> Rule:
    """Return the rule for a matrix product whose left factor is argument ``first``; a bias before it is added."""

    def rule(args: Any, result: Any) -> tuple[float, float]:
        return 2.0 * result.numel() * args[first].shape[-1], float(result.numel()) * (first > 0)

    return rule


def _convolution(args: Any, result: Any) -> tuple[float, float]:
    inputs, weight, bias, transposed = args[0], args[1], args[2], args[6]
    places = inputs.numel() if transposed else result.numel()
    return 2.0 * places * prod(weight.shape[1:]), 0.0 if bias is None else float(result.numel())


def _attention(args: Any, result: Any) -> tuple[float, float]:
    query, key, value = args[:3]
    pairs = prod(query.shape[:-1]) * key.shape[-2]
    return 2.0 * pairs * (query.shape[-1] + value.shape[-1]), float(SOFTMAX * pairs)


def _embedding_bag(args: Any, result: Any) -> tuple[float, float]:
    weight, rows = args[:2]
    return 0.0, 2.0 * rows.numel() * weight.shape[-1]


def _sorting(args: Any, result: Any) -> tuple[float, float]:
    """Return the comparisons of sorting: so many for each number as its row can be halved."""
    row = args[0].shape[-1] if args[0].ndim else 1
    return 0.0, args[0].numel() * math.log2(max(row, 2))


MATRIX: Mapping[str, Rule] = {
    "mm": _product(0),
    "bmm": _product(0),
    "mv": _product(0),
    "dot": lambda args, result: (2.0 * args[0].numel(), 0.0),
    "addmm": _product(1),
    "baddbmm": _product(1),
    "convolution": _convolution,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_scaled_dot_product_flash_attention": _attention,
    "_scaled_dot_product_efficient_attention": _attention,
    "_scaled_dot_product_cudnn_attention": _attention,
    "sort": _sorting,
    "topk": _sorting,
    "_embedding_bag": _embedding_bag,
    "_embedding_bag_forward_only": _embedding_bag,
}

ONE = """
abs add all amax amin any argmax atan avg_pool2d bitwise_and bitwise_left_shift bitwise_not bitwise_or
bitwise_right_shift bitwise_xor ceil clamp clamp_max clamp_min cos cumsum div elu eq erf exp expm1 floor floor_divide
fmod ge gelu gt hardswish hardtanh isfinite isinf isnan le leaky_relu log log1p logical_and logical_not logical_or
logical_xor lt masked_fill max max_pool2d_with_indices maximum mean min minimum mul ne neg pow reciprocal relu
remainder rshift __and__ __or__ __xor__ __lshift__ __rshift__ round rsqrt rsub sgn sigmoid sign silu sin softplus sqrt
square sub sum tan tanh tril triu where _adaptive_avg_pool2d _adaptive_avg_pool3d
"""
MANY = {"_softmax": SOFTMAX, "_log_softmax": SOFTMAX, "_safe_softmax": SOFTMAX, "native_layer_norm": NORM}
# In evaluation a batch norm has its mean and deviation ready; a bicubic pixel is a weighted sum of sixteen.
MANY |= {"native_batch_norm": 4, "_native_batch_norm_legit_no_training": 4, "cudnn_batch_norm": 4}
MANY |= {"upsample_bicubic2d": 32, "_upsample_bicubic2d_aa": 32, "upsample_bilinear2d": 8}
MANY |= {"native_group_norm": NORM, "var": 4, "var_mean": 4, "std": 5, "linalg_vector_norm": 2, "addcmul": 3, "lerp": 3}

POINTWISE: Mapping[str, int] = dict.fromkeys(ONE.split(), 1) | MANY
"""Operations an element of the largest tensor involved; each function such as ``exp`` counts as one."""

MOVES = """
arange cat clone constant_pad_nd contiguous copy detach embedding empty empty_like empty_strided fill flip full
full_like gather index index_select lift_fresh lift_fresh_copy new_empty new_full new_ones new_zeros ones ones_like
repeat roll scalar_tensor select_scatter slice_scatter stack zero zeros zeros_like _local_scalar_dense _to_copy
_unsafe_view _reshape_alias
"""
FREE = frozenset(MOVES.split())
"""Operations that only move or make data; views are free too, and recognised by themselves."""


@dataclass(frozen=True)
class FlopCount:
    """What one call cost.

    Attributes:
        matrix: In matrix products, convolutions and attention.
        pointwise: In everything else that was counted.
        uncounted: Names of operations whose cost is not known.
    """

    matrix: float
    pointwise: float
    uncounted: tuple[str, ...]

    @property
    def total(self) -> float:
        """Return everything that was counted."""
        return self.matrix + self.pointwise


def count_flops(module: nn.Module, *inputs: Any) -> FlopCount:
    """Run a module once without gradients and count; it is left in the mode it was in."""
    counter = _Counter()
    with torch.no_grad(), counter:
        module(*inputs)
    return FlopCount(counter.matrix, counter.pointwise, tuple(sorted(counter.uncounted)))


class _Counter(TorchDispatchMode):
    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Say that nothing here is compiled; torch's default would load its compiler to say so, for seconds."""
        return False

    def __init__(self) -> None:
        super().__init__()
        self.matrix = 0.0
        self.pointwise = 0.0
        self.uncounted: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        kwargs = dict(kwargs or {})
        name = func.overloadpacket.__name__
        # In-place operations cost what their other form costs.
        name = name if name.startswith("__") else name.rstrip("_")
        known = name in MATRIX or name in POINTWISE or name in FREE
        if not known:
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        self._add(name, func, args, result)
        return result

    def _add(self, name: str, func: Any, args: Any, result: Any) -> None:
        if name in MATRIX:
            matrix, pointwise = MATRIX[name](args, result)
            self.matrix += matrix
            self.pointwise += pointwise
        elif name in POINTWISE:
            self.pointwise += POINTWISE[name] * _largest(args, result)
        elif name not in FREE and not func.is_view:
            self.uncounted.add(name)


def _largest(args: Any, result: Any) -> int:
    """Return the elements of the largest tensor involved: element-wise that is the result, in a reduction an input."""
    return max((leaf.numel() for leaf in tree_leaves((args, result)) if isinstance(leaf, Tensor)), default=0)
