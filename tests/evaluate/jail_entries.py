"""What tests run inside the jail: single attempts at what must fail, and children that misbehave."""

import ctypes
import errno
import mmap
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from chiasma.evaluate.jail.warming import warm_up

Arrays = Mapping[str, np.ndarray]

SLOW_START = 5.5


def _fork() -> None:
    if os.fork() == 0:
        os._exit(0)
    os.wait()


def _thread() -> None:
    thread = threading.Thread(target=time.sleep, args=(0.0,))
    thread.start()
    thread.join()


def _connect(address: tuple[str, int]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as line:
        line.settimeout(2)
        line.connect(address)


def attempt(request: Mapping[str, Any], inputs: Arrays, outputs: Arrays) -> dict[str, str]:
    """Return what became of each attempt: ``done``, or the name of the error."""
    folder = request.get("folder", "/nonexistent")
    attempts: dict[str, Callable[[], Any]] = {
        "read": lambda: open("/etc/passwd").close(),
        "write": lambda: open(f"{folder}/marker", "w").close(),
        "list": lambda: os.listdir("/"),
        "stat": lambda: os.stat("/"),
        "chmod": lambda: os.chmod(folder, 0o755),
        "tcp": lambda: _connect(("127.0.0.1", int(request.get("port", 9)))),
        "udp": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", 9)),
        "unix": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM).close(),
        "fork": _fork,
        "thread": _thread,
        "execute": lambda: os.execv("/bin/true", ["/bin/true"]),
        "signal": lambda: os.kill(os.getppid(), 0),
        "kill": lambda: os.kill(os.getppid(), signal.SIGKILL),
        "memory_file": lambda: os.close(os.memfd_create("x")),
        "map": lambda: mmap.mmap(-1, 4 * 2**30).close(),
        "become_root": lambda: os.setuid(0),
        "raise_limits": lambda: __import__("resource").setrlimit(7, (100, 100)),
        "executable_memory": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC),
    }
    return {name: _outcome(attempts[name]) for name in request["attempts"]}


def _outcome(attempt: Callable[[], Any]) -> str:
    try:
        attempt()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "OSError")
    except Exception as error:  # noqa: BLE001 - it reports.
        return type(error).__name__
    return "done"


def state(request: Mapping[str, Any], inputs: Arrays, outputs: Arrays) -> dict[str, Any]:
    """Return what a child is: its user, its open descriptors, its environment, by every way to read it."""
    open_ones = [number for number in range(256) if _outcome(lambda number=number: os.fstat(number)) == "done"]
    return {
        "pid": os.getpid(),
        "uid": os.getuid(),
        "gid": os.getgid(),
        "groups": _outcome(os.getgroups),
        "open": open_ones,
        "environment": sorted(os.environ),
        "found": _in_initial_environment(request.get("secret", "nothing")),
        "threads": torch.get_num_threads(),
        "modules": len(sys.modules),
    }


def _in_initial_environment(secret: str) -> bool:
    """Look through the memory in which the kernel put the environment when this program began."""
    start = ctypes.POINTER(ctypes.c_char_p).in_dll(ctypes.CDLL(None), "environ")
    entries: list[bytes] = []
    place = 0
    while start and start[place]:
        entries.append(start[place] or b"")
        place += 1
    return any(secret.encode() in entry for entry in entries)


def double(request: Mapping[str, Any], inputs: Arrays, outputs: Arrays) -> dict[str, Any]:
    """Return twice the input, and spoil the input."""
    outputs["twice"][...] = 2 * inputs["x"]
    inputs["x"][...] = 0
    return {"sum": float(outputs["twice"].sum())}


def step_with_shared_inputs(request: Mapping[str, Any], inputs: Arrays, outputs: Arrays) -> dict[str, Any]:
    """Save one shared array for the backward pass, then write into another."""
    x, y = (torch.from_numpy(inputs[name]) for name in ("x", "y"))
    weight = torch.ones_like(x, requires_grad=True)
    loss = (weight * x).sum()
    y.add_(1)
    loss.backward()
    return {"gradient": float(weight.grad.sum())}


def end(request: Mapping[str, Any], inputs: Arrays, outputs: Arrays) -> dict[str, Any]:
    """End without an answer in one of many ways."""
    how = request["how"]
    if how == "status 0":
        os._exit(0)
    if how == "SystemExit":
        raise SystemExit(0)
    if how == "abort":
        os.abort()
    if how == "segfault":
        ctypes.string_at(0)
    if how == "recursion":
        return end(request, inputs, outputs)
    if how == "raise":
        raise ValueError("first\x1b[31m line\nsecond line " + "x" * 1000)
    if how == "hostile error":
        raise Unspeakable
    if how == "long":
        return {"text": "x" * 10_000_000}
    if how == "not a number":
        return {"value": float("nan")}
    if how == "allocate":
        return {"size": int(torch.ones(2**30).numel())}
    if how == "leak":
        kept = []
        while True:
            kept.append(np.ones(2**22, np.uint8))
    return {}


class Unspeakable(Exception):  # noqa: N818
    """An error whose text is an error."""

    def __str__(self) -> str:
        raise RuntimeError("no text either")


def hang(request: Mapping[str, Any], inputs: Arrays, outputs: Arrays) -> dict[str, Any]:
    """Take for ever in one of many ways."""
    how = request["how"]
    while True:
        try:
            if how == "sleep":
                time.sleep(1000)
            elif how == "native":
                torch.linalg.svdvals(torch.randn(4000, 4000))
            elif how == "power":
                10 ** (10**8)
            elif how == "signals":
                for number in range(1, 32):
                    _outcome(lambda number=number: signal.signal(number, signal.SIG_IGN))
            elif how == "flood":
                print("x" * 2**20)
        except BaseException:  # noqa: BLE001 - it is hostile.
            continue


def warm_up_slowly(request: Mapping[str, Any], inputs: Arrays, outputs: Arrays) -> Mapping[str, Any]:
    """Warm up as always, and take longer over it than a candidate may take."""
    time.sleep(SLOW_START)
    return warm_up(request, inputs, outputs)


def wait_for_the_end(request: Mapping[str, Any], inputs: Arrays, outputs: Arrays) -> dict[str, Any]:
    """Compute until somebody wants it to stop."""
    while not outputs["stop"][0]:
        time.sleep(0.01)
    return {"stopped": True}


def corrupt(request: Mapping[str, Any], inputs: Arrays, outputs: Arrays) -> dict[str, Any]:
    """Spoil everything that the process shares with itself."""
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(666)
    torch.nn.Linear.forward = lambda self, x: x * 0
    np.random.seed(1)
    os.environ["OMP_NUM_THREADS"] = "7"
    return {}


def train_a_little(request: Mapping[str, Any], inputs: Arrays, outputs: Arrays) -> dict[str, Any]:
    """Return the bits of a few steps of training: recurrence, attention, convolution, fft, qr and each optimiser."""
    before = len(sys.modules)
    bits = little_training(request["seed"])
    return {"bits": bits, "imported": len(sys.modules) - before}


def little_training(seed: int) -> str:
    """Return the weights after a few steps, as text."""
    torch.manual_seed(seed)
    x = torch.randn(16, 6, 32)
    attention = torch.nn.MultiheadAttention(32, 4, batch_first=True)
    convolution, last = torch.nn.Conv1d(32, 32, 3, padding=1), torch.nn.Linear(32, 4)
    parts = torch.nn.ModuleList([attention, convolution, last])
    for kind in (torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD):
        optimizer = kind(parts.parameters(), lr=0.01)
        for _ in range(3):
            y = attention(x, x, x)[0]
            y = convolution(y.transpose(1, 2)).transpose(1, 2) + torch.fft.rfft(y).abs().mean()
            y = torch.nn.functional.gelu(y) + torch.linalg.qr(y)[0].sum(-1, keepdim=True) * 1e-3
            loss = torch.nn.functional.cross_entropy(last(y.mean(1)), torch.arange(16) % 4)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return b"".join(p.detach().numpy().tobytes() for p in parts.parameters()).hex()[:100_000]


def forge(request: Mapping[str, Any], inputs: Arrays, outputs: Arrays) -> dict[str, Any]:
    """Write something else where the answer belongs, and end at once."""
    import gc

    for found in gc.get_objects():
        if isinstance(found, np.ndarray) and found.dtype == np.uint8 and found.size > 2**12 and found.flags.writeable:
            found[...] = np.frombuffer(request["bytes"].encode().ljust(found.size, b" ")[: found.size], np.uint8)
    os._exit(0)
