"""Messages between supervisor and warm process: a length, JSON, and descriptors beside the length."""

import json
import socket
import struct
from collections.abc import Mapping, Sequence
from typing import Any

LENGTH = struct.Struct("<I")
MOST_DESCRIPTORS = 200
LONGEST = 2**20


def send(line: socket.socket, message: Mapping[str, Any], descriptors: Sequence[int] = ()) -> None:
    """Send one message.

    Raises:
        OSError: Nobody listens any more.
    """
    text = json.dumps(message).encode()
    socket.send_fds(line, [LENGTH.pack(len(text))], list(descriptors))
    line.sendall(text)


def receive(line: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """Return the next message and its descriptors, or None where the other end is gone."""
    head, descriptors, _, _ = socket.recv_fds(line, LENGTH.size, MOST_DESCRIPTORS)
    if not head:
        return None
    head += _exactly(line, LENGTH.size - len(head))
    (length,) = LENGTH.unpack(head)
    if length > LONGEST:
        raise OSError(f"a message may have {LONGEST:,} bytes, but this one has {length:,}")
    return json.loads(_exactly(line, length)), list(descriptors)


def _exactly(line: socket.socket, count: int) -> bytes:
    parts = b""
    while len(parts) < count:
        part = line.recv(count - len(parts))
        if not part:
            raise ConnectionResetError("the other end closed in the middle of a message")
        parts += part
    return parts
