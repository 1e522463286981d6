"""Small inputs on which the contracts are tested."""

import torch

from chiasma.data.batch import Batch, Tokens
from chiasma.data.signature import ImageInput, InputSpec, Signature, Target, TextInput, TokensInput

DIM = 16
ROWS = 5

IMAGE = ImageInput(channels=3, height=16, width=12)
TEXT = TextInput(vocabulary=40, length=7)
REGIONS = TokensInput(count=6, dim=10, boxes=True)
EXAMPLES: tuple[InputSpec, ...] = (IMAGE, TEXT, REGIONS)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tokens(count: int, *, dim: int = DIM, seed: int = 0, rows: int = ROWS) -> Tokens:
    """Return random tokens: the first row is full, the others end in padding."""
    x = torch.randn(rows, count, dim, generator=generator(seed))
    lengths = torch.arange(count, count - rows, -1).clamp(min=1)
    return Tokens(x, torch.arange(count) < lengths[:, None])


def example(input: InputSpec, *, seed: int = 0, rows: int = ROWS) -> torch.Tensor | Tokens:
    """Return random inputs of one modality; texts and tokens end in padding except in the first row."""
    if isinstance(input, ImageInput):
        return torch.rand(rows, input.channels, input.height, input.width, generator=generator(seed))
    if isinstance(input, TextInput):
        ids = torch.randint(4, input.vocabulary, (rows, input.length), generator=generator(seed))
        ids[:, 0] = 2
        ids[:, -1] = ids[:, 1]
        lengths = torch.arange(input.length, input.length - rows, -1).clamp(min=2)
        return ids.masked_fill(torch.arange(input.length) >= lengths[:, None], 0)
    plain = tokens(input.count, dim=input.dim, seed=seed, rows=rows)
    boxes = torch.rand(rows, input.count, 5, generator=generator(seed)) if input.boxes else None
    return Tokens(plain.x, plain.mask, boxes)


def signature(task: str = "classification", **inputs: InputSpec) -> Signature:
    """Return the signature of a dataset with three labels; image and text unless other inputs are named."""
    return Signature(inputs=inputs or {"image": IMAGE, "text": TEXT}, target=target_of(task))


def target_of(task: str) -> Target:
    """Return a target with three labels; of several tasks two classes and a quantity, of pairs both sides."""
    if task == "contrastive":
        return Target.from_dict({"task": task, "labels": ["image", "text"]})
    if task != "multitask":
        return Target.from_dict({"task": task, "labels": ["a", "b", "c"]})
    classes = {"name": "x", "target": {"task": "classification", "labels": ["a", "b"]}}
    quantity = {"name": "y", "target": {"task": "regression", "labels": ["y"]}}
    return Target.from_dict({"task": task, "labels": ["x=a", "x=b", "y"], "tasks": [classes, quantity]})


def batch(signature: Signature, *, seed: int = 0, absent: dict[str, list[int]] | None = None) -> Batch:
    """Return a random batch; ``absent`` lists rows by modality, whose inputs are zero."""
    inputs, present = {}, {}
    for name, input in signature.inputs.items():
        there = torch.ones(ROWS, dtype=torch.bool)
        there[(absent or {}).get(name, [])] = False
        value = example(input, seed=seed)
        present[name] = there
        inputs[name] = value.only(there) if isinstance(value, Tokens) else pick(value, there)
    return Batch(inputs, present, tuple(str(row) for row in range(ROWS)))


def pick(value: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return the tensor with zeros in all other rows."""
    return value.masked_fill(~rows.reshape(-1, *[1] * (value.ndim - 1)), 0)


def rows_of(value: torch.Tensor | Tokens, rows: torch.Tensor) -> torch.Tensor | Tokens:
    """Return some rows of inputs."""
    if isinstance(value, torch.Tensor):
        return value[rows]
    return Tokens(value.x[rows], value.mask[rows], None if value.boxes is None else value.boxes[rows])


def spoiled(value: Tokens, noise: float) -> Tokens:
    """Return the tokens with something else in the padding."""
    return Tokens(value.x.masked_fill(~value.mask[..., None], noise), value.mask, value.boxes)
