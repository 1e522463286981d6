"""Each layer of the wall alone: what it stops, and that without it the same attempt succeeds."""

import os
import socket
import struct
from pathlib import Path

import pytest

from chiasma.evaluate.jail import Jail, Layers, Limits, seccomp

# One warm process serves all: that of one of the processes that run tests.
pytestmark = pytest.mark.xdist_group("jail")

ENTRY = "tests.evaluate.jail_entries:attempt"
MEMORY = Limits(memory_bytes=2**30)


@pytest.fixture
def tried(jail: Jail, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def attempt(layers: Layers, *attempts: str, **more: object) -> dict[str, str]:
        monkeypatch.setattr(jail, "layers", layers)
        request = {"attempts": list(attempts), "folder": str(tmp_path), **more}
        ended = jail.run(ENTRY, request, limits=MEMORY)
        assert ended.refusal is None, ended.refusal
        return dict(ended.answer or {})

    return attempt


def refused(*errors: str, of: dict[str, str]) -> bool:
    return set(of.values()) <= set(errors)


def test_without_any_layer_attempts_succeed(tried, tmp_path: Path):
    names = ["read", "write", "list", "stat", "chmod", "udp", "unix", "fork", "thread", "signal", "memory_file", "map"]
    assert set(tried(Layers.only(), *names).values()) == {"done"}
    assert (tmp_path / "marker").exists()


def test_landlock_alone_stops_files_and_tcp(tried, tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        found = tried(Layers.only("landlock"), "read", "write", "list", "tcp", port=port)
        assert set(found.values()) == {"EACCES"}
        assert tried(Layers.only(), "tcp", port=port) == {"tcp": "done"}
    assert not (tmp_path / "marker").exists()


def test_landlock_alone_does_not_stop_what_seccomp_is_for(tried):
    assert set(tried(Layers.only("landlock"), "stat", "chmod", "udp", "fork", "memory_file").values()) == {"done"}


def test_seccomp_alone_stops_everything_but_computing(tried, tmp_path: Path):
    names = ["read", "write", "list", "stat", "chmod", "tcp", "udp", "unix", "fork", "execute", "signal", "kill"]
    found = tried(Layers.only("seccomp"), *names, "memory_file", "become_root")
    assert set(found.values()) == {"EPERM"}
    python = tried(Layers.only("seccomp"), "thread", "raise_limits")
    assert python == {"thread": "RuntimeError", "raise_limits": "ValueError"}
    assert not (tmp_path / "marker").exists()


def test_limits_alone_stop_new_descriptors_and_memory(tried):
    found = tried(Layers.only("descriptors", "limits"), "read", "write", "tcp", "udp", "unix", "memory_file")
    assert set(found.values()) == {"EMFILE"}
    assert tried(Layers.only("limits"), "map") == {"map": "ENOMEM"}


def test_limits_stop_new_processes_of_an_ordinary_user(tried):
    names = ("identity", "limits") if os.getuid() == 0 else ("limits",)
    assert tried(Layers.only(*names), "fork", "thread") == {"fork": "EAGAIN", "thread": "RuntimeError"}


def test_the_identity_alone_takes_roots_rights(jail: Jail, tried, tmp_path: Path):
    if os.getuid() != 0:
        pytest.skip("only root has an identity to give up")
    tmp_path.chmod(0o700)
    assert tried(Layers.only("identity"), "write", "become_root", "signal") == {
        "write": "EACCES",
        "become_root": "EPERM",
        "signal": "EPERM",
    }
    state = jail.run("tests.evaluate.jail_entries:state", {}).answer
    assert state is not None
    assert (state["uid"], state["gid"]) == (65534, 65534)


def test_closing_descriptors_alone_leaves_three_that_lead_nowhere(jail: Jail, monkeypatch: pytest.MonkeyPatch):
    def opened(layers: Layers) -> list[int]:
        monkeypatch.setattr(jail, "layers", layers)
        answer = jail.run("tests.evaluate.jail_entries:state", {}).answer
        assert answer is not None
        return answer["open"]

    assert opened(Layers.only("descriptors")) == [0, 1, 2]
    assert len(opened(Layers.only())) > 3


def test_executable_memory_stays_allowed_because_kernels_are_compiled_while_running(tried):
    assert tried(Layers(), "executable_memory") == {"executable_memory": "done"}


def test_limits_cannot_be_raised_again(tried):
    assert tried(Layers.only("identity", "limits"), "raise_limits") != {"raise_limits": "done"}


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_allows_exactly_the_list(machine: str):
    code = seccomp.program(machine)
    audit, column = seccomp.MACHINES[machine]
    numbers = {both[column] for both in seccomp.ALLOWED.values() if both[column] is not None}
    for number in range(512):
        assert (simulated(code, audit, number) == seccomp.ALLOW) == (number in numbers), number
    assert simulated(code, audit, 1000) == seccomp.REFUSE
    assert simulated(code, audit, seccomp.X32 + 1) == seccomp.KILL
    assert simulated(code, 0x40000003, 1) == seccomp.KILL


def test_a_machine_whose_calls_are_unknown_gets_no_filter():
    with pytest.raises(OSError, match="the system calls of sparc are not known; known: x86_64, aarch64"):
        seccomp.program("sparc")


def simulated(code: bytes, audit: int, number: int) -> int:
    """Run the filter as the kernel does."""
    lines = list(struct.iter_unpack("HBBI", code))
    place, value = 0, 0
    while True:
        what, yes, no, operand = lines[place]
        if what == seccomp.ANSWER:
            return operand
        if what == seccomp.LOAD:
            value = audit if operand == seccomp.MACHINE_AT else number
        else:
            holds = value == operand if what == seccomp.EQUAL else value >= operand
            place += yes if holds else no
        place += 1
