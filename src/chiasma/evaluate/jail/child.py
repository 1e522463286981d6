"""A child of the warm process: it maps what it was given, locks itself down, works, answers, and ends."""

import importlib
import os
import select
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from chiasma.core.spec import Spec, strict_json
from chiasma.evaluate.jail import descriptors, wire
from chiasma.evaluate.jail.identity import call_oneself, die_with
from chiasma.evaluate.jail.limits import Limits
from chiasma.evaluate.jail.lockdown import Layers, lock_down
from chiasma.evaluate.jail.regions import Region, attach, write_answer
from chiasma.evaluate.jail.said import first_line, plain
from chiasma.evaluate.jail.touched import Range, make_own

Entry = Callable[[Mapping[str, Any], Mapping[str, np.ndarray], Mapping[str, np.ndarray]], Mapping[str, Any]]
REQUEST = "request"
ANSWER = "answer"
# Under this name a function finds whether it should end.
STOP = "stop"
# What a child says once it has its order: one that dies before can be replaced.
TAKEN = b"!"
# How a list of processes shows a child that waits for an order, and one that has it.
IDLE, WORKING = "chiasma-idle", "chiasma-work"


class Order(Spec):
    """What the supervisor asks for; the descriptors of inputs, outputs and request come beside it, in this order.

    Attributes:
        entry: What to call, as ``package.module:function``.
        inputs: Arrays to read, among them the request.
        outputs: Arrays to fill, among them the answer.
        limits: What the child may use.
        layers: Which layers of the wall stand.
    """

    entry: str
    inputs: Mapping[str, Region]
    outputs: Mapping[str, Region]
    limits: Limits
    layers: Mapping[str, bool]


def find(entry: str) -> Entry:
    """Return the function that an entry names; called before the fork, because a child can open no module."""
    module, _, function = entry.partition(":")
    return getattr(importlib.import_module(module), function)


def stand_by(line: socket.socket, pages: Sequence[Range], *, parent: int) -> None:
    """Make oneself ready while nobody waits, then carry out one order, whose descriptors come beside it, and end.

    Until there is an order no byte of a candidate has been read; then the wall is closed first, as always.

    Args:
        line: Where the order comes from; its end ends this process.
        pages: What will be written to.
        parent: The warm process.
    """
    try:
        die_with(parent)
        descriptors.close_all(but=line.fileno())
        call_oneself(IDLE)
        poll = select.poll()
        poll.register(line.fileno(), select.POLLIN)
        make_own(pages, until=lambda: bool(poll.poll(0)))
        received = wire.receive(line)
        if received is None:
            os._exit(0)
        message, numbers = received
        line.send(TAKEN)
        line.close()
        call_oneself(WORKING)
        order = Order.from_dict(message)
        entry = find(order.entry)
    except BaseException:  # noqa: BLE001 - nothing of ours may go on in a process that is to run foreign code.
        os._exit(1)
    run(order, numbers, entry=entry, parent=parent)


def run(order: Order, numbers: Sequence[int], *, entry: Entry, parent: int) -> None:
    """Do the work and end this process; its status says nothing, only the answer does.

    Args:
        order: What to do.
        numbers: The descriptors of its arrays.
        entry: What it names.
        parent: The warm process.
    """
    try:
        every = {**order.inputs, **order.outputs}
        given = {
            name: attach(number, region, writable=name in order.outputs)
            for (name, region), number in zip(every.items(), numbers, strict=True)
        }
        answer = given[ANSWER]
        failed = lock_down(Layers(**order.layers), order.limits, parent=parent)
        said = _answered(entry, given, order)
        try:
            write_answer({"failed": failed, **said}, answer)
        except (TypeError, ValueError, RecursionError) as error:
            write_answer({"failed": failed, "error": plain(first_line(error))}, answer)
    finally:
        os._exit(0)


def _answered(entry: Entry, given: Mapping[str, np.ndarray], order: Order) -> Mapping[str, Any]:
    request = strict_json(given[REQUEST].tobytes())
    inputs = {name: given[name] for name in order.inputs if name != REQUEST}
    outputs = {name: given[name] for name in order.outputs if name != ANSWER}
    try:
        return {"answer": dict(entry(request, inputs, outputs))}
    except MemoryError as error:
        return {"memory": plain(error)}
    except BaseException as error:  # noqa: BLE001 - the process boundary: it becomes a typed refusal.
        line = plain(first_line(error))
        return {"memory" if "can't allocate memory" in line else "error": line}
