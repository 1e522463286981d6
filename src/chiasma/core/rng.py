"""Randomness as a function of a path.

``derive_seed(run_seed, "shuffle", epoch)`` is a keyed hash, so that it is the same with one worker or eight and never
needs to be stored. This is the only file that touches torch's global generator.
"""

import hashlib
import json
from collections.abc import Generator
from contextlib import contextmanager

import numpy as np

Part = str | int


def derive_seed(run_seed: int, *path: Part) -> int:
    """Return a 63-bit seed for one purpose, independent of every other path.

    Args:
        run_seed: The seed of the run, any integer.
        path: What the randomness is for, from the general to the special: ``"shuffle", epoch``.
    """
    message = json.dumps([int(run_seed), *path], separators=(",", ":")).encode()
    return int.from_bytes(hashlib.blake2b(message, digest_size=8).digest(), "big") >> 1


def numpy_rng(run_seed: int, *path: Part) -> np.random.Generator:
    """Return a fresh NumPy generator for one purpose."""
    return np.random.default_rng(derive_seed(run_seed, *path))


def seed_torch(run_seed: int, *path: Part) -> None:
    """Seed torch's global generators (CPU and accelerators in use) for one purpose, such as one step's dropout.

    Each generator is seeded directly: ``torch.manual_seed`` asks every backend first, which costs a fifth of a
    millisecond a step, and queues a call a step for accelerators that never start.
    """
    import torch

    seed = derive_seed(run_seed, *path)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)


@contextmanager
def kept_torch_generator() -> Generator[None]:
    """Leave torch's global CPU generator as it was, whatever is drawn inside."""
    import torch

    state = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)
