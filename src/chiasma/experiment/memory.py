"""What a training will take of a device's memory, for whoever is about to start it."""

from chiasma.data.dataset import Dataset
from chiasma.data.signature import ImageInput, InputSpec, Signature, Target, TextInput
from chiasma.experiment.config import RunConfig
from chiasma.experiment.console import Console
from chiasma.model.memory import UntraceableError
from chiasma.train.design import Design
from chiasma.train.devices import pick_device
from chiasma.train.memory import TrainingMemory, device_memory, is_small, training_memory
from chiasma.train.predicting import ROWS_AT_A_TIME

LARGE = 0.5
"""The part of a device's memory from which on a training is worth a word."""

_GIB, _MIB = 2**30, 2**20


def say_memory(design: Design, dataset: Dataset, config: RunConfig, *, console: Console) -> None:
    """Say what a training takes where that is much of what the device has; refuse nothing."""
    device = pick_device(config.run.device)
    available = device_memory(device)
    rows = max(len(dataset.rows(split)) for split in ("steer", "select"))
    try:
        if is_small(design, dataset.signature, limit=int(LARGE * available)):
            return
        memory = _estimate(design, dataset.signature, config, evaluated_rows=rows)
    except UntraceableError as error:
        console.say(f"what memory the training takes cannot be told: {error}")
        return
    text = memory_warning(memory, available, design=design, name=device.type)
    if text is not None:
        console.say(text)


def memory_warning(memory: TrainingMemory, available: int, *, design: Design, name: str) -> str | None:
    """Return what to say before a training begins; None where it takes little of the device's memory.

    Args:
        memory: What it takes.
        available: What the device has.
        design: What is trained.
        name: What the device is called.
    """
    if memory.total < LARGE * available:
        return None
    text = f"training takes about {gib(memory.total)} of the {gib(available)} of memory that {name} has"
    if memory.total <= available:
        return f"{text} ({_sum(memory)})"
    loop = design.training.loop
    remedies = ["run.precision=bfloat16", "a smaller data.image_size or data.text_length"]
    if memory.learning > available:
        recompute = [] if loop.recompute else ["train.recompute=true"]
        remedies = [*recompute, f"train.accumulation={2 * loop.accumulation}", *remedies]
    return f"warning: {text}, so it may fail: {_sum(memory)}. Less is taken with {', '.join(remedies)}."


def memory_lines(config: RunConfig) -> list[str]:
    """Return what a training of these settings takes, where they say how large images and texts are; else nothing."""
    signature = largest_signature(config)
    if signature is None:
        return []
    design = config.design(signature)
    try:
        memory = _estimate(design, signature, config)
    except UntraceableError as error:
        return [f"what memory a training takes cannot be told: {error}"]
    lines = [
        f"training takes about {gib(memory.total)} of memory: {_sum(memory)}",
        f"{memory.parameters / 1e6:.1f} million parameters, for {_inputs(signature)}",
        "kept for the backward pass: "
        + ", ".join(f"{name} {gib(size)}" for name, size in memory.stored.items() if size >= _MIB),
    ]
    if memory.evaluating:
        lines.append(f"at most {gib(memory.learning)} while it learns, {gib(memory.evaluating)} while it is evaluated")
    return lines


def largest_signature(config: RunConfig) -> Signature | None:
    """Return what the largest data look like that these settings allow; None where they leave sizes to the data."""
    data, side, length = config.data, config.data.image_size, config.data.text_length
    sizes: dict[str, InputSpec | None] = {
        "image": None if side is None else ImageInput(channels=3, height=side, width=side),
        # How many words a published tokenizer knows is found where it lies.
        "text": None
        if length is None or data.tokenizer is not None
        else TextInput(vocabulary=data.vocabulary, length=length),
    }
    read = {name: size for name, size in sizes.items() if config.model.encoders.get(name, True) is not None}
    if data.features or config.model.whole is not None or not all(read.values()):
        return None
    task = config.model.head.kind if config.model.head is not None else "classification"
    inputs = {name: size for name, size in read.items() if size is not None}
    return Signature(inputs=inputs, target=Target.from_dict({"task": task, "labels": ("no", "yes")}))


def gib(size: int) -> str:
    """Return bytes as a person reads them: ``3.4 GiB``, ``250 MiB``."""
    return f"{size / _GIB:.1f} GiB" if size >= _GIB else f"{size / _MIB:.0f} MiB"


def _estimate(
    design: Design, signature: Signature, config: RunConfig, *, evaluated_rows: int = ROWS_AT_A_TIME
) -> TrainingMemory:
    # Other accelerators than CUDA keep what the CPU keeps, as far as is known.
    device = "cuda" if pick_device(config.run.device).type == "cuda" else "cpu"
    precision = config.run.precision
    return training_memory(design, signature, precision=precision, device=device, evaluated_rows=evaluated_rows)


def _sum(memory: TrainingMemory) -> str:
    parts = {
        "weights": memory.weights,
        "optimiser": memory.optimiser,
        "copies of the weights": memory.copies,
        "gradients": memory.gradients,
        "activations": memory.activations,
        "inputs": memory.inputs,
    }
    return ", ".join(f"{name} {gib(size)}" for name, size in parts.items() if size)


def _inputs(signature: Signature) -> str:
    words: list[str] = []
    for name, input in signature.inputs.items():
        if isinstance(input, ImageInput):
            words.append(f"images of {input.width} x {input.height} pixels")
        elif isinstance(input, TextInput):
            words.append(f"texts of {input.length} out of {input.vocabulary} word pieces")
        else:
            words.append(f"tokens of {name}")
    return " and ".join(words)
