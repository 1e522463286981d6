"""Devices and precision in plain torch; ``docs/decisions/001-plain-torch-devices.md`` says why."""

import platform
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch

from chiasma.core.errors import ConfigError
from chiasma.core.spec import suggestion

Precision = Literal["float32", "bfloat16", "float16"]

DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def pick_device(name: str = "auto") -> torch.device:
    """Return the device of that name; ``auto`` takes CUDA, else Apple's MPS, else the CPU.

    Args:
        name: ``auto``, ``cpu``, ``mps``, ``cuda``, or one of several GPUs such as ``cuda:1``.

    Raises:
        ConfigError: The name is unknown, or this machine or this build of torch lacks the device.
    """
    kind, _, number = name.partition(":")
    if kind not in DEVICES or (number and (kind != "cuda" or not number.isdecimal())):
        known = ", ".join(DEVICES)
        raise ConfigError(f"device: {name!r} is unknown.{suggestion(kind, list(DEVICES))} Known: {known}, cuda:N.")
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if kind == "auto":
        return torch.device(next(kind for kind, available in there.items() if available))
    if not there[kind] or (number and int(number) >= torch.cuda.device_count()):
        found = ", ".join(kind for kind, available in there.items() if available)
        gpus = f" ({torch.cuda.device_count()} GPUs)" if there["cuda"] else ""
        raise ConfigError(f"device: {name!r} is not available; torch {torch.__version__} sees {found}{gpus}.")
    return torch.device(name)


def check_precision(name: str) -> None:
    """Refuse a precision that does not exist.

    Raises:
        ConfigError: The nearest name is suggested.
    """
    if name not in PRECISIONS:
        known = list(PRECISIONS)
        raise ConfigError(f"precision: {name!r} is unknown.{suggestion(name, known)} Known: {', '.join(known)}.")


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """Return a context in which matrix products run in ``precision``; weights stay float32."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=PRECISIONS[precision])


def gradient_scaler(device: torch.device, precision: Precision) -> torch.amp.GradScaler:
    """Return the loss scaler that float16 needs; disabled, it does nothing."""
    return torch.amp.GradScaler(device.type, enabled=precision == "float16")


@contextmanager
def one_thread() -> Iterator[None]:
    """Have small tensor operations done by the calling thread alone.

    Where workers keep the processors busy, threads that share a small operation wait for each other longer than it
    takes; and its bits do not depend on how many there are.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def environment(device: torch.device, precision: Precision, *, ranks: int) -> dict[str, str | int]:
    """Return what the bits of a training depend on beside its arguments."""
    return {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "precision": precision,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "ranks": ranks,
    }
