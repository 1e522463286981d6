"""What a module shares with everything else in its process, and so must leave as it is."""

import builtins
import math
import os
import sys
import threading
import warnings
from collections.abc import Mapping
from typing import Any, cast

import torch
import torch.nn.functional as functional
from torch import nn

# Whose functions a module could replace for everybody.
SHARED: Mapping[str, Any] = {
    "builtins": builtins,
    "math": math,
    "os": os,
    "torch": torch,
    "torch.nn": nn,
    "torch.nn.functional": functional,
    "torch.Tensor": torch.Tensor,
    "torch.nn.Module": nn.Module,
    "torch.nn.Linear": nn.Linear,
    "torch.nn.LayerNorm": nn.LayerNorm,
    "torch.nn.MultiheadAttention": nn.MultiheadAttention,
    "torch.optim.Optimizer": torch.optim.Optimizer,
    "torch.optim.AdamW": torch.optim.AdamW,
    "torch.optim.Adam": torch.optim.Adam,
    "torch.optim.SGD": torch.optim.SGD,
    "torch.autograd": torch.autograd,
}
HOOKS = nn.modules.module


def process_state() -> dict[str, Any]:
    """Return what there is now, to be compared with what there is later."""
    return {
        "the default dtype": torch.get_default_dtype(),
        "the default device": str(torch.get_default_device()),
        "the gradient mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "the number of threads": (torch.get_num_threads(), threading.active_count()),
        "determinism": torch.are_deterministic_algorithms_enabled(),
        "anomaly detection": torch.is_anomaly_enabled(),
        "the environment": dict(os.environ),
        "tracing": (sys.gettrace(), sys.getprofile()),
        "the recursion limit": sys.getrecursionlimit(),
        "standard output": (id(sys.stdout), id(sys.stderr)),
        "hooks of all modules": {
            name: len(value)
            for name, value in vars(HOOKS).items()
            if name.startswith("_global") and hasattr(value, "__len__")
        },
        "warnings": len(warnings.filters),
        **{name: _identities(owner) for name, owner in SHARED.items()},
    }


def _identities(owner: Any) -> dict[str, int]:
    """Return what each name of a module or class stands for."""
    held = cast("dict[str, Any]", vars(owner))
    return {name: id(value) for name, value in held.items()}


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> str | None:
    """Return the name of the first thing that differs, or None."""
    for name, value in before.items():
        if after[name] == value:
            continue
        if name in SHARED:
            keys = sorted(key for key in {*value, *after[name]} if value.get(key) != after[name].get(key))
            return f"{name}.{keys[0]}"
        return name
    return None
