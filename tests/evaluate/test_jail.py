"""The jail as a whole: what goes in and comes out, deadlines, deaths, and what earlier jails stumbled over."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from chiasma.core.errors import JailError
from chiasma.evaluate.jail import Jail, Layers, Level, Limits, Region, Stopping, identity
from chiasma.evaluate.jail.child import IDLE, WORKING
from chiasma.evaluate.jail.touched import POPULATE_WRITE, make_own, pages_touched_by
from tests.evaluate.jail_entries import little_training

# One warm process serves all: that of one of the processes that run tests.
pytestmark = pytest.mark.xdist_group("jail")

HERE = "tests.evaluate.jail_entries"


def gone(pid: int, *, within: float) -> bool:
    """Return whether a process ends in time; a zombie has ended."""
    until = time.monotonic() + within
    while time.monotonic() < until:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.01)
    return False


def children(jail: Jail) -> list[int]:
    """Return who works for the jail now; the child that waits for an order is not among them."""
    assert jail.warm_pid is not None
    every = psutil.Process(jail.warm_pid).children(recursive=True)
    return [child.pid for child in every if child.status() != psutil.STATUS_ZOMBIE and child.name() == WORKING]


def spare(jail: Jail) -> int:
    """Return the child that waits for an order, once it does."""
    assert jail.warm_pid is not None
    until = time.monotonic() + 10
    while time.monotonic() < until:
        found = [child.pid for child in psutil.Process(jail.warm_pid).children() if child.name() == IDLE]
        if found:
            assert len(found) == 1
            return found[0]
        time.sleep(0.01)
    raise AssertionError("nobody waits for an order")


def test_arrays_go_in_and_come_out_and_inputs_stay_as_they_are(jail: Jail):
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    outputs = {"twice": Region.of("f4", 2, 3), "left out": Region.of("f8", 2)}
    ended = jail.run(f"{HERE}:double", {}, inputs={"x": x}, outputs=outputs)
    assert ended.refusal is None
    assert ended.answer == {"sum": 30.0}
    np.testing.assert_array_equal(ended.outputs["twice"], 2 * np.arange(6, dtype=np.float32).reshape(2, 3))
    assert np.isnan(ended.outputs["left out"]).all()
    assert x.sum() == 15
    assert ended.level.is_full


@pytest.mark.parametrize(
    ("how", "kind", "reason"),
    [
        ("status 0", "silent", "its process ended without an answer"),
        ("SystemExit", "error", "SystemExit: 0"),
        ("abort", "crash", "its process ended by signal SIG"),
        ("segfault", "crash", "its process ended by signal SIGSEGV"),
        ("recursion", "error", "RecursionError: maximum recursion depth exceeded"),
        ("raise", "error", "ValueError: first?[31m line"),
        ("hostile error", "error", "Unspeakable"),
        ("long", "error", "ValueError: an answer may have 1,048,576 bytes, but this one has 10,000"),
        ("not a number", "error", "ValueError: Out of range float values are not JSON compliant"),
        ("allocate", "memory", "can't allocate memory: you tried to allocate 4294967296 bytes"),
        ("leak", "memory", ""),
    ],
)
def test_what_ends_without_an_answer_is_refused_with_its_kind(jail: Jail, how: str, kind: str, reason: str):
    ended = jail.run(f"{HERE}:end", {"how": how}, limits=Limits(memory_bytes=2**30))
    assert ended.answer is None
    assert ended.refusal is not None
    assert ended.refusal.kind == kind
    assert reason in ended.refusal.reason


@pytest.mark.parametrize("forged", ["ANSWERED", '{"answer": {"score": 1}}', "ANSWERED\0\0\0\0\0\0\0\0", "x"])
def test_bytes_that_are_no_answer_are_never_taken_for_one(jail: Jail, forged: str):
    ended = jail.run(f"{HERE}:forge", {"bytes": forged})
    assert ended.answer is None
    assert ended.refusal is not None
    assert ended.refusal.kind in ("malformed", "silent")


@pytest.mark.parametrize("how", ["loop", "sleep", "native", "power", "signals", "flood"])
def test_what_takes_too_long_is_killed_in_time_and_leaves_no_process(jail: Jail, how: str):
    started = time.monotonic()
    ended = jail.run(f"{HERE}:hang", {"how": how}, limits=Limits(wall_seconds=0.3))
    assert ended.refusal is not None
    assert ended.refusal.kind == "deadline"
    assert ended.refusal.reason == "killed after 0.3 s"
    assert time.monotonic() - started < 1.3
    assert children(jail) == []


def test_a_stopped_child_is_killed_in_time(jail: Jail):
    stopper = threading.Timer(0.2, lambda: [os.kill(pid, signal.SIGSTOP) for pid in children(jail)])
    stopper.start()
    ended = jail.run(f"{HERE}:hang", {"how": "loop"}, limits=Limits(wall_seconds=0.6))
    assert ended.refusal is not None
    assert ended.refusal.kind == "deadline"
    assert ended.seconds < 1.6
    assert ended.cpu_seconds < 0.5
    assert children(jail) == []


def test_processor_time_is_limited_apart_from_the_clock(jail: Jail):
    ended = jail.run(f"{HERE}:hang", {"how": "loop"}, limits=Limits(wall_seconds=30, cpu_seconds=0.1))
    assert ended.refusal is not None
    assert ended.refusal.reason == "used more than 0.1 s of processor time"
    assert ended.seconds < 15


def test_a_child_that_does_not_stop_when_asked_is_killed_after_its_grace(jail: Jail):
    stopping = Stopping(lambda: True, grace_seconds=0.3)
    ended = jail.run(f"{HERE}:hang", {"how": "loop"}, limits=Limits(wall_seconds=None), stopping=stopping)
    assert ended.refusal is not None
    assert (ended.refusal.kind, ended.refusal.reason) == ("stopped", "asked to stop, and killed 0.3 s later")
    assert ended.seconds < 1.5
    assert children(jail) == []


def test_a_child_sees_that_it_should_stop_and_answers(jail: Jail):
    began = time.monotonic()
    stopping = Stopping(lambda: time.monotonic() > began + 0.3, grace_seconds=20)
    ended = jail.run(f"{HERE}:wait_for_the_end", {}, limits=Limits(wall_seconds=None), stopping=stopping)
    assert ended.answer == {"stopped": True}
    assert set(ended.outputs) == set()
    assert 0.2 < ended.seconds < 10


def test_ctrl_c_in_the_supervisor_ends_the_child_and_the_next_request_is_a_fresh_one(jail: Jail):
    dead: list[int] = []

    def interrupt() -> bool:
        dead.extend(children(jail))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        jail.run(f"{HERE}:hang", {"how": "loop"}, stopping=Stopping(interrupt))
    assert all(gone(pid, within=1) for pid in dead)
    assert jail.warm_pid is None
    outputs = {"twice": Region.of("f8", 1)}
    assert jail.run(f"{HERE}:double", {}, inputs={"x": np.ones(1)}, outputs=outputs).answer == {"sum": 2.0}


def test_a_request_after_the_warm_process_died_starts_another(jail: Jail):
    assert jail.run(f"{HERE}:double", {}, inputs={"x": np.ones(1)}, outputs={"twice": Region.of("f8", 1)}).answer
    before = jail.warm_pid
    assert before is not None
    os.kill(before, signal.SIGKILL)
    ended = jail.run(f"{HERE}:double", {}, inputs={"x": np.ones(1)}, outputs={"twice": Region.of("f8", 1)})
    assert ended.answer == {"sum": 2.0}
    assert jail.warm_pid != before


def test_a_child_dies_with_the_warm_process_and_its_work_is_done_again(jail: Jail):
    # Root's change of user clears the signal of the parent's death, so that it must be set after it.
    dead: list[int] = []

    def kill() -> None:
        assert jail.warm_pid is not None
        dead.extend(children(jail))
        os.kill(jail.warm_pid, signal.SIGKILL)

    threading.Timer(0.3, kill).start()
    ended = jail.run(f"{HERE}:hang", {"how": "loop"}, limits=Limits(wall_seconds=1.0))
    assert ended.refusal is not None
    assert ended.refusal.kind == "deadline"
    assert len(dead) == 1
    assert gone(dead[0], within=1)


SUPERVISOR = """
import threading, time, psutil
from chiasma.evaluate.jail import Jail, Limits
jail = Jail()
jail.start()
threading.Thread(target=lambda: jail.run("tests.evaluate.jail_entries:hang", {"how": "signals"},
                                         limits=Limits(wall_seconds=60)), daemon=True).start()
names = lambda: sorted(child.name() for child in psutil.Process(jail.warm_pid).children())
while names() != ["chiasma-idle", "chiasma-work"]:
    time.sleep(0.01)
print(jail.warm_pid, *(child.pid for child in psutil.Process(jail.warm_pid).children()), flush=True)
time.sleep(60)
"""


def test_everybody_dies_with_the_supervisor(jail: Jail):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", SUPERVISOR], stdout=subprocess.PIPE, env=environment) as supervisor:
        assert supervisor.stdout is not None
        pids = [int(word) for word in supervisor.stdout.readline().split()]
        assert len(pids) == 3
        supervisor.kill()
    assert all(gone(pid, within=1) for pid in pids)


def test_each_request_has_the_child_that_waited_and_another_one_waits_for_the_next(jail: Jail):
    waiting = [spare(jail)]
    for _ in range(3):
        answer = jail.run(f"{HERE}:state", {}).answer
        assert answer is not None
        assert answer["pid"] == waiting[-1]
        waiting.append(spare(jail))
    assert len(set(waiting)) == 4


def test_a_child_that_waits_has_nothing_open_but_its_line_and_only_the_bond_to_its_parent(jail: Jail):
    if sys.platform != "linux":
        pytest.skip("only Linux shows the descriptors of another process")
    waiting = Path(f"/proc/{spare(jail)}")
    leads = [os.readlink(each) for each in (waiting / "fd").iterdir()]
    assert leads.count("/dev/null") == 3
    assert len(leads) == 4
    assert "socket:" in next(each for each in leads if each != "/dev/null")


def test_a_child_that_died_while_it_waited_is_replaced(jail: Jail):
    before = jail.warm_pid
    os.kill(spare(jail), signal.SIGKILL)
    outputs = {"twice": Region.of("f8", 1)}
    assert jail.run(f"{HERE}:double", {}, inputs={"x": np.ones(1)}, outputs=outputs).answer == {"sum": 2.0}
    assert jail.warm_pid == before
    assert spare(jail) not in children(jail)


def test_a_child_that_waits_dies_with_the_warm_process(jail: Jail):
    waiting, warm = spare(jail), jail.warm_pid
    assert warm is not None
    os.kill(warm, signal.SIGKILL)
    assert gone(waiting, within=1)
    with Jail() as other:
        other.start()
        waiting = spare(other)
    assert gone(waiting, within=1)


def test_a_module_that_nobody_has_imported_is_imported_once_before_the_fork():
    with Jail(accept_lesser=True) as fresh:
        first, second = (fresh.run(f"{HERE}:state", {}).answer for _ in range(2))
    assert first is not None
    assert second is not None
    assert first["modules"] == second["modules"]


def test_pages_that_work_uses_are_found_and_made_own_without_changing_them():
    block = np.arange(2**20)
    pages = pages_touched_by(lambda: block.__setitem__(slice(None), 7))
    start = block.__array_interface__["data"][0]
    if sys.platform == "linux":
        found = [place for place, length, advice in pages if advice == POPULATE_WRITE and place < start + block.nbytes]
        assert any(place + length > start + block.nbytes // 2 for place, length, _ in pages if place in found)
    make_own(pages, until=lambda: False)
    np.testing.assert_array_equal(block, np.arange(2**20))


def test_a_request_does_not_wait_until_all_pages_are_made_own():
    asked: list[bool] = []
    make_own([(0, 0, POPULATE_WRITE)] * 10_000, until=lambda: asked.append(True) or len(asked) == 2)
    assert len(asked) == 2


def test_the_last_thing_before_the_filter_is_the_bond_to_the_parent(jail: Jail):
    with pytest.raises(OSError, match="prctl"):
        identity.prctl(9999)
    source = Path(identity.__file__).with_name("lockdown.py").read_text()
    assert source.index('("identity", ') < source.index('("parent_death", ') < source.index('("seccomp", ')


def test_a_child_finds_nothing_of_our_environment_even_in_its_memory(jail: Jail, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CHIASMA_TEST_SECRET", "canary-7f3a")
    with Jail() as fresh:
        answer = fresh.run(f"{HERE}:state", {"secret": "canary-7f3a"}).answer
    assert answer is not None
    assert answer["found"] is False
    assert "CHIASMA_TEST_SECRET" not in answer["environment"]
    assert answer["threads"] == 1


def test_bits_are_those_of_this_process(jail: Jail):
    ended = jail.run(f"{HERE}:train_a_little", {"seed": 3})
    assert ended.answer is not None, ended.refusal
    assert ended.answer["bits"] == little_training(3)


def test_nothing_is_imported_after_the_fork(jail: Jail):
    ended = jail.run(f"{HERE}:train_a_little", {"seed": 1})
    assert ended.answer is not None
    assert ended.answer["imported"] == 0


def test_a_child_that_spoils_its_process_changes_nothing_for_the_next(jail: Jail):
    first = jail.run(f"{HERE}:train_a_little", {"seed": 5})
    assert jail.run(f"{HERE}:corrupt", {}).answer == {}
    second = jail.run(f"{HERE}:train_a_little", {"seed": 5})
    assert first.answer is not None
    assert first.answer == second.answer


def test_arrays_do_not_share_a_version_counter(jail: Jail):
    inputs = {"x": np.ones(4, np.float32), "y": np.ones(4, np.float32)}
    ended = jail.run(f"{HERE}:step_with_shared_inputs", {}, inputs=inputs)
    assert ended.answer == {"gradient": 4.0}


def test_a_warm_process_with_two_threads_is_refused():
    with Jail(warm_up="tests.evaluate.jail_entries_threaded:warm_up") as other, pytest.raises(JailError) as caught:
        other.start()
    assert str(caught.value) == "The warm process of the jail did not start with one thread: it has 2 threads."


def test_a_warm_process_that_cannot_start_says_why():
    with Jail(warm_up="chiasma.nowhere:nothing") as other, pytest.raises(JailError, match="No module named"):
        other.start()


def test_a_lesser_level_is_refused_unless_it_is_accepted():
    with Jail(layers=Layers(landlock=False, seccomp=False)) as other:
        with pytest.raises(JailError, match=r"kernel, layers does not hold .* Accept what is left with --set "):
            other.run(f"{HERE}:end", {"how": "nothing"})
        other.accept_lesser = True
        ended = other.run(f"{HERE}:end", {"how": "nothing"})
        assert ended.answer == {}
        assert not ended.level.is_full
        assert "kernel" in ended.level.missing
        assert "files" in ended.level.words


@pytest.mark.parametrize("layer", ["landlock", "seccomp", "limits", "parent_death"])
def test_a_layer_that_does_not_stand_is_noticed_also_where_others_do_its_work(layer):
    with Jail(layers=Layers(**{layer: False})) as other, pytest.raises(JailError, match="layers does not hold"):
        other.start()


def test_nothing_holds_before_it_was_tried():
    assert not Level().is_full
    assert Level().words.startswith("without files, network")


def test_our_memory_stays_flat(jail: Jail):
    process = psutil.Process()
    jail.run(f"{HERE}:end", {"how": "leak"}, limits=Limits(memory_bytes=2**28))
    before, files = process.memory_info().rss, process.num_fds()
    for how in ("leak", "long", "allocate", "raise"):
        for _ in range(3):
            jail.run(f"{HERE}:end", {"how": how}, limits=Limits(memory_bytes=2**28))
    assert process.memory_info().rss - before < 8 * 2**20
    assert process.num_fds() == files
