"""How a generated module behaves: whether it keeps the contract, tried on its own class before it is trained.

To be run in the jail: the module is hostile until it was read, and what is said here is then its word. What a score
depends on is checked from outside; see :mod:`chiasma.evaluate.jailed_trial`.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from chiasma.core.rng import derive_seed, seed_torch
from chiasma.data.batch import Tokens
from chiasma.evaluate.process_state import changed, process_state
from chiasma.model.fusion.generated import GeneratedFusion, checked
from chiasma.model.generated import MOST_PARAMETERS, GeneratedFaultError, class_of

ROWS = 3
WIDTH_OF_LIMIT = 64
TOLERANCE = 1e-3
LARGEST = 1e4
SMALLEST_SPREAD = 1e-6
NUDGE = 0.02
HOSTILE_DEPTH = 6


@dataclass(frozen=True)
class Size:
    """Widths and lengths at which a module is tried; a contract that is kept at two is not fitted to one."""

    image_dim: int
    text_dim: int
    dim: int
    image_tokens: int
    text_tokens: int


SIZES = (Size(32, 48, 32, 7, 5), Size(64, 32, 64, 4, 9))


def fault_of(source: str) -> str | None:
    """Return the first way in which the class that an approved source defines breaks the contract, or None."""
    before = process_state()
    try:
        fault = next(_faults(source), None)
    except GeneratedFaultError as error:
        fault = str(error)
    spoilt = changed(before, process_state())
    return f"it changes {spoilt}, which belongs to the whole process" if spoilt else fault


def _faults(source: str) -> Iterator[str]:
    for size in SIZES:
        seed_torch(0, "behaviour", size.dim)
        module = class_of(source)(size.image_dim, size.text_dim, size.dim)
        yield from _hidden(module)
        yield from _examined(module, source, size)
    yield from _absent(source)


def _hidden(module: nn.Module) -> Iterator[str]:
    """Yield what learns but is not among the parameters, found by walking everything that the module holds."""
    known = {id(value) for value in (*module.parameters(), *module.buffers())}
    for value in _held(module, set(), HOSTILE_DEPTH):
        if isinstance(value, Tensor) and value.requires_grad and value.is_leaf and id(value) not in known:
            yield "it holds parameters that are not registered; use nn.Parameter, nn.ModuleList and nn.ModuleDict"
            return


def _held(value: object, seen: set[int], depth: int) -> Iterator[object]:
    """Yield everything that can be reached through attributes and containers."""
    if id(value) in seen or depth < 0:
        return
    seen.add(id(value))
    yield value
    if isinstance(value, Mapping):
        inside = list(cast("Mapping[Any, Any]", value).values())
    elif isinstance(value, list | tuple | set | frozenset):
        inside = list(cast("Iterable[Any]", value))
    elif isinstance(value, Tensor | type) or (callable(value) and not isinstance(value, nn.Module)):
        inside = []
    else:
        inside = list(getattr(value, "__dict__", {}).values())
    for item in inside:
        yield from _held(item, seen, depth - 1)


def _examined(module: nn.Module, source: str, size: Size) -> Iterator[str]:
    """Yield what is wrong at one size; weights are moved a little, so that paths which start at zero are open."""
    most = MOST_PARAMETERS * max(1.0, size.dim / WIDTH_OF_LIMIT) ** 2
    if (count := sum(value.numel() for value in module.parameters())) > most:
        yield f"it has {count:,} parameters with a width of {size.dim}, but the limit is {most:,.0f}"
        return
    module.eval()
    if any(part.training for part in module.modules()):
        yield "eval() does not put all of it into evaluation mode"
        return
    _nudge(module)
    inputs = _inputs(size)
    given = [value.clone() for value in inputs]
    with torch.no_grad():
        out = checked(module(*inputs), rows=ROWS, dim=size.dim)
        if not all(torch.equal(value, kept) for value, kept in zip(inputs, given, strict=True)):
            yield "it changes its inputs"
            return
        yield from _odd_values(out, inputs[0].dtype)
        yield from _unsteady(module, inputs, out, size)
        yield from _not_reloaded(module, source, inputs, out, size)
    yield from _gradients(module, size)


def _odd_values(out: Tensor, dtype: torch.dtype) -> Iterator[str]:
    if out.dtype != dtype:
        yield f"its output must be {dtype}, but is {out.dtype}"
    elif not bool(torch.isfinite(out).all()):
        yield "its output holds a NaN or an infinity"
    elif float(out.abs().max()) > LARGEST:
        yield f"its output reaches {float(out.abs().max()):.3g}, but may not exceed {LARGEST:g}"
    elif float((out - out[:1]).abs().max()) < SMALLEST_SPREAD:
        yield "its output is the same for all rows"


def _unsteady(module: nn.Module, inputs: list[Tensor], out: Tensor, size: Size) -> Iterator[str]:
    """Yield whether the output depends on chance, on neighbours, or on what is masked."""
    for seed in (1, 2):
        seed_torch(seed, "behaviour", "again")
        if _differ(module(*inputs), out, exactly=True):
            yield "its output in evaluation mode changes when it is asked again"
            return
    for row in range(ROWS):
        if _differ(module(*[value[row : row + 1] for value in inputs]), out[row : row + 1]):
            yield "the output of a row depends on the other rows of its batch"
            return
    image, text, image_mask, text_mask = inputs
    noisy = [
        torch.where(image_mask[..., None], image, 10 * _noise("image noise", *image.shape)),
        torch.where(text_mask[..., None], text, 10 * _noise("text noise", *text.shape)),
    ]
    if _differ(module(*noisy, image_mask, text_mask), out):
        yield "a masked token changes its output; multiply by the mask, or fill before softmax"


def _not_reloaded(module: nn.Module, source: str, inputs: list[Tensor], out: Tensor, size: Size) -> Iterator[str]:
    """Yield whether another instance with the same weights says something else: caches and hidden state."""
    seed_torch(1, "behaviour", size.dim)
    other = class_of(source)(size.image_dim, size.text_dim, size.dim).eval()
    try:
        other.load_state_dict(copy.deepcopy(module.state_dict()), strict=True)
    except (RuntimeError, KeyError) as error:
        yield f"its weights do not load into another instance: {str(error).splitlines()[0]}"
        return
    if _differ(other(*inputs), out, exactly=True):
        yield "another instance with the same weights gives another output"


def _gradients(module: nn.Module, size: Size) -> Iterator[str]:
    """Yield which input or weight no gradient reaches, while training."""
    image, text, image_mask, text_mask = _inputs(size)
    leaves = {"image": image.requires_grad_(), "text": text.requires_grad_()}
    seed_torch(0, "behaviour", "gradients")
    out = checked(module.train()(image * 1.0, text * 1.0, image_mask, text_mask), rows=ROWS, dim=size.dim)
    if not out.requires_grad:
        yield "no gradient flows through it"
        return
    torch.autograd.backward([(out * _noise("projection", *out.shape)).sum()])
    for name, leaf in leaves.items():
        if leaf.grad is None or not float(leaf.grad.abs().sum()) > 0:
            yield f"no gradient reaches the {name}"
        elif not bool(torch.isfinite(leaf.grad).all()):
            yield f"the gradient to the {name} holds a NaN or an infinity"
    learnt = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if learnt and not any(value.grad is not None and bool(value.grad.abs().sum() > 0) for value in learnt):
        yield "no gradient reaches its parameters"


def _absent(source: str) -> Iterator[str]:
    """Yield whether rows without an image, a text or both are finite where it is used as a fusion."""
    dim = SIZES[0].dim
    seed_torch(0, "behaviour", "absent")
    fusion = GeneratedFusion(dim, source).eval()
    image, text = _noise("image", 4, 5, dim), _noise("text", 4, 6, dim)
    present = torch.tensor([[True, True], [True, False], [False, True], [False, False]])
    with torch.no_grad():
        out = fusion(
            *(Tokens(x, m[:, None].expand(x.shape[:2])) for x, m in zip((image, text), present.T, strict=True))
        )
    if not bool(torch.isfinite(out.x).all()):
        yield "a row without an image or a text gives a NaN or an infinity"


def _inputs(size: Size) -> list[Tensor]:
    """Return random tokens and masks, with padding in every row but the first."""
    image = _noise("image", ROWS, size.image_tokens, size.image_dim)
    text = _noise("text", ROWS, size.text_tokens, size.text_dim)
    lengths = torch.tensor([1.0, 0.75, 0.5])[:, None]
    masks = [torch.arange(count) < (lengths * count).ceil() for count in (size.image_tokens, size.text_tokens)]
    return [image, text, *masks]


def _nudge(module: nn.Module) -> None:
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.add_(_noise(name, *parameter.shape), alpha=NUDGE)


def _noise(purpose: str, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(derive_seed(0, "behaviour", purpose))
    return torch.randn(shape, generator=generator)


def _differ(found: object, expected: Tensor, *, exactly: bool = False) -> bool:
    if type(found) is not Tensor or found.shape != expected.shape:
        return True
    return (
        not torch.equal(found, expected)
        if exactly
        else not torch.allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE)
    )
