"""Several processes, one device each, that train one model together; one process alone exchanges nothing.

Every rank sees its part of each batch, so that a design means the same training on any number of devices. Whatever is
decided (when to stop, what callbacks ask for) is decided once and told to all, and nothing that is exchanged is
unpickled: numbers travel as tensors, the rest as JSON.
"""

import gc
import hashlib
import importlib
import json
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from chiasma.core.errors import ChiasmaError, ConfigError, LeaderFailedError
from chiasma.core.launch import launched_ranks
from chiasma.train.devices import pick_device

# A rank that waits longer than this for the others takes them for dead.
PATIENCE = timedelta(minutes=30)


class RanksDifferError(ChiasmaError):
    """The processes that train together do not have the same model, data or checkpoint."""


class Ranks:
    """One process's place among those that train together.

    Args:
        rank: Which one this is, from 0; 0 leads.
        size: How many there are.
        device: Where tensors that are exchanged must lie.
    """

    def __init__(self, rank: int = 0, size: int = 1, *, device: torch.device | None = None) -> None:
        self.rank = rank
        self.size = size
        self.device = device or torch.device("cpu")

    @property
    def leads(self) -> bool:
        """Return whether this process decides, saves and reports."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Return whether there is no other."""
        return self.size == 1

    @property
    def path(self) -> tuple[str | int, ...]:
        """Return what tells this rank's randomness from the others'; nothing for the leader."""
        return () if self.leads else ("rank", self.rank)

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean over ranks, the same on all."""
        if self.alone:
            return value
        total = value.detach().to(self.device, copy=True)
        distributed.all_reduce(total)
        return (total / self.size).to(value.device)

    def every(self, flag: bool) -> bool:
        """Return whether all ranks say yes."""
        return flag if self.alone else not self._any(not flag)

    def first(self, text: str | None) -> str | None:
        """Return the text of the lowest rank that has one, or None; costs little where none has."""
        if self.alone or not self._any(text is not None):
            return text
        return next(said for said in self.hear(text) if said is not None)

    def hear(self, said: Any) -> list[Any]:
        """Return what every rank says, in order; plain JSON."""
        if self.alone:
            return [said]
        content = np.frombuffer(json.dumps(said).encode(), dtype=np.uint8)
        lengths = [int(length) for length in self._gathered(torch.tensor([len(content)]))]
        padded = torch.zeros(max(lengths), dtype=torch.uint8)
        padded[: len(content)] = torch.from_numpy(content.copy())
        heard = self._gathered(padded)
        return [json.loads(bytes(part[:length].tolist())) for part, length in zip(heard, lengths, strict=True)]

    def told(self, said: Any) -> Any:
        """Return what the leader says; plain JSON. What other ranks say is not heard."""
        if self.alone:
            return said
        content = json.dumps(said).encode() if self.leads else b""
        length = torch.tensor([len(content)], device=self.device)
        distributed.broadcast(length, src=0)
        values = torch.zeros(int(length), dtype=torch.uint8, device=self.device)
        if self.leads:
            values.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
        distributed.broadcast(values, src=0)
        return json.loads(bytes(values.tolist()))

    def part(self, rows: np.ndarray) -> np.ndarray:
        """Return this rank's part of some rows: contiguous, sizes that differ by at most one."""
        return np.array_split(rows, self.size)[self.rank]

    def joined(self, values: np.ndarray, *, count: int) -> np.ndarray:
        """Return the parts of all ranks in order, as :meth:`part` cut them.

        Args:
            values: Float32 ``[n ...]``, one entry for each row of this rank's part.
            count: Rows of all ranks together.
        """
        if self.alone:
            return values
        sizes = [len(part) for part in np.array_split(np.arange(count), self.size)]
        padded = np.zeros((max(sizes), *values.shape[1:]), dtype=np.float32)
        padded[: len(values)] = values
        heard = self._gathered(torch.from_numpy(padded))
        return np.concatenate([part[:size].numpy() for part, size in zip(heard, sizes, strict=True)])

    def check_same(self, what: str, value: Any) -> None:
        """Refuse to go on where ranks differ.

        Raises:
            RanksDifferError: Names what, and the values of the first two that differ.
        """
        heard = self.hear(value)
        other = next((rank for rank, said in enumerate(heard) if said != heard[0]), None)
        if other is not None:
            raise RanksDifferError(
                f"All ranks must have the same {what}, but rank 0 has {heard[0]!r} and rank {other} {heard[other]!r}."
            )

    def wrapped(self, model: nn.Module) -> nn.Module:
        """Return what the forward pass of a training step goes through: gradients become the mean over ranks.

        Every rank has the leader's parameters and buffers afterwards.

        Raises:
            RanksDifferError: The models of two ranks have other parameters.
        """
        if self.alone:
            return model
        shapes = [(name, tuple(parameter.shape)) for name, parameter in model.named_parameters()]
        digest = hashlib.sha256(repr(shapes).encode()).hexdigest()[:16]
        self.check_same("parameters (hash of names and shapes)", f"{len(shapes)} with hash {digest}")
        # A member may be idle on one rank only.
        return DistributedDataParallel(model, find_unused_parameters=True)

    def share_buffers(self, model: nn.Module) -> None:
        """Give every rank the leader's buffers: running statistics depend on which examples a rank saw."""
        if self.alone:
            return
        for buffer in model.buffers():
            distributed.broadcast(buffer, src=0)

    def accumulating(self, wrapped: nn.Module, *, last: bool) -> AbstractContextManager[Any]:
        """Return a context for one micro-batch, in which gradients are exchanged only if it is the last one."""
        return nullcontext() if last or not isinstance(wrapped, DistributedDataParallel) else wrapped.no_sync()

    @contextmanager
    def leader_first(self) -> Iterator[None]:
        """Have the leader do something before all others do it: what it leaves on disk is there then.

        Raises:
            LeaderFailedError: On the others, where the leader could not do it.
        """
        if self.alone:
            yield
        elif not self.leads:
            if self._any(False):
                raise LeaderFailedError("The leading process has failed; its own error says why.")
            yield
        else:
            try:
                yield
            except BaseException:
                self._any(True)
                raise
            self._any(False)

    def _any(self, flag: bool) -> bool:
        flags = torch.tensor([int(flag)], device=self.device)
        distributed.all_reduce(flags, op=distributed.ReduceOp.MAX)
        return bool(flags.item())

    def _gathered(self, value: Tensor) -> list[Tensor]:
        mine = value.to(self.device)
        parts = [torch.empty_like(mine) for _ in range(self.size)]
        distributed.all_gather(parts, mine)
        return [part.cpu() for part in parts]


ALONE = Ranks()


@contextmanager
def joined_ranks(device: str) -> Iterator[tuple[Ranks, str]]:
    """Find the other processes that ``torchrun`` started, and this one's device.

    Args:
        device: What the settings say: ``auto`` is one GPU for each process where there are GPUs, else the CPU.

    Yields:
        This process's place, and the name of its device.

    Raises:
        ConfigError: There are fewer GPUs than processes, or the device cannot be shared out.
    """
    size = launched_ranks()
    if size == 1:
        yield ALONE, device
        return
    own = rank_device(device, local_rank=int(os.environ["LOCAL_RANK"]))
    if own.type == "cuda":
        torch.cuda.set_device(own)
    # Some of its functions take the group of the moment of their import as a default and keep it for ever, and
    # wrapping a model imports it. A group that outlives this function has threads that may abort a finished process.
    importlib.import_module("torch.distributed.nn.functional")
    distributed.init_process_group("nccl" if own.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield Ranks(distributed.get_rank(), size, device=own), str(own)
    finally:
        gc.collect()
        distributed.destroy_process_group()


def rank_device(device: str, *, local_rank: int) -> torch.device:
    """Return the device of one of several processes on a machine.

    Raises:
        ConfigError: It is not ``auto``, ``cuda`` or ``cpu``, or there are fewer GPUs than processes.
    """
    if device not in ("auto", "cuda", "cpu"):
        raise ConfigError(f"run.device={device} is one device; with torchrun use auto, cuda or cpu.")
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if local_rank >= count > 0:
        raise ConfigError(
            f"torchrun started {local_rank + 1} processes or more on this machine, which has {count} GPUs: "
            f"--nproc_per_node={count}, or run.device=cpu."
        )
    return pick_device(f"cuda:{local_rank}")
