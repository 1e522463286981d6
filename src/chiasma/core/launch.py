"""How ``torchrun`` started this process; known without importing torch, which is slow."""

import os


def is_launched() -> bool:
    """Return whether ``torchrun`` started this process."""
    return "LOCAL_RANK" in os.environ


def launched_ranks() -> int:
    """Return how many processes ``torchrun`` started to train together; 1 where it did not start this one."""
    return int(os.environ.get("WORLD_SIZE", "1")) if is_launched() else 1


def own_rank() -> int:
    """Return which of these processes this one is; 0 leads."""
    return int(os.environ.get("RANK", "0")) if is_launched() else 0
