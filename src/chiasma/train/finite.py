"""Find where a NaN or an infinity came from, after one was seen."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from chiasma.core.errors import NonFiniteError
from chiasma.data.batch import Batch


def first_non_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """Return the name of the first floating-point tensor that holds a NaN or an infinity, or None."""
    return next((name for name, value in tensors.items() if not _finite(value)), None)


def explain_loss(
    model: nn.Module, parts: Sequence[tuple[Batch, Tensor]], *, repeat: Callable[[], object], step: int
) -> NonFiniteError:
    """Return an error that names the first thing that is not finite: an input, a label, a weight or a module's output.

    Args:
        model: The model whose loss was not finite.
        parts: What it saw, and what it should have said.
        repeat: Repeats the forward pass with the same randomness.
        step: The step it happened in, counted from 0.
    """
    named = next((found for batch, labels in parts if (found := _bad_input(batch, labels))), None)
    if named is None:
        weight = first_non_finite(dict(model.named_parameters()))
        named = None if weight is None else f"parameter {weight}"
    if named is None:
        path = _first_module(model, repeat)
        named = "the loss" if path is None else f"the output of module {path or 'model'} ({_kind(model, path)})"
    return NonFiniteError(
        f"Step {step}: {named} holds a NaN or an infinity. Lower optim.lr, or use run.precision=float32."
    )


def explain_gradient(model: nn.Module, *, step: int) -> NonFiniteError:
    """Return an error that names the first parameter whose gradient is not finite."""
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    named = first_non_finite(gradients)
    what = f"the gradient of parameter {named}" if named else "the norm of all gradients"
    return NonFiniteError(
        f"Step {step}: {what} holds a NaN or an infinity although the loss is finite. "
        "Lower optim.lr, or set optim.clip."
    )


def _bad_input(batch: Batch, labels: Tensor) -> str | None:
    if first_non_finite({"labels": labels}):
        return "a label"
    for name, value in batch.inputs.items():
        for position, tensor in enumerate(_tensors(value)):
            if not _finite(tensor):
                where = [] if position else torch.isfinite(tensor).flatten(1).all(1).logical_not().nonzero()
                example = f" of example {batch.ids[int(where[0])]!r}" if len(where) else ""
                return f"input {name!r}{example}"
    return None


def _first_module(model: nn.Module, repeat: Callable[[], object]) -> str | None:
    """Return the path of the module whose output turned bad first; children finish before their parents."""
    found: list[str] = []
    hooks = [
        module.register_forward_hook(lambda _m, _i, output, path=path: _note(found, path, output))
        for path, module in model.named_modules()
    ]
    try:
        with torch.no_grad():
            repeat()
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else None


def _note(found: list[str], path: str, output: Any) -> None:
    if not found and not all(_finite(tensor) for tensor in _tensors(output)):
        found.append(path)


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors inside tensors, dataclasses, mappings and sequences."""
    if isinstance(value, Tensor):
        yield value
    elif is_dataclass(value):
        for field in fields(value):
            yield from _tensors(getattr(value, field.name))
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)


def _finite(value: Tensor) -> bool:
    return not value.is_floating_point() or bool(torch.isfinite(value).all())


def _kind(model: nn.Module, path: str) -> str:
    return type(model.get_submodule(path)).__name__
