"""Run jobs on Ray workers, on this machine or on a cluster, with the retries and deadlines of the local executor."""

import json
import os
import queue
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import psutil

from chiasma.core.errors import ConfigError
from chiasma.evaluate.driver_end import DriverEnd, worker_environment
from chiasma.evaluate.executor import SupervisedExecutor, check_positive
from chiasma.evaluate.ray_actor import TrialActor
from chiasma.evaluate.supervisor import Supervisor
from chiasma.evaluate.worker import ALIVE, READY

PROGRAM = "chiasma.evaluate.ray_actor:prepare_shared_trials"
REMEDY = "Run: pip install 'chiasma[ray]'"
OBJECT_STORE_BYTES = 100 * 2**20
IN_FLIGHT_SECONDS = 0.2
CONNECT_SECONDS = 10.0
DEATH_SECONDS = 5.0
WILLING_SECONDS = 0.5


class RayExecutor(SupervisedExecutor):
    """Pre-warmed Ray actors, one job each at a time; the same jobs give the same outcomes as on local workers.

    Workers on other machines read the prepared dataset and write what a job keeps: the working directory, the run's
    folder and the cache must lie on storage that every node sees at the same path, such as a disk of the driver's
    machine that the nodes mount (the driver itself refuses run folders on a network drive). The nodes need the same
    Python, Ray and Chiasma.

    Ray carries the jobs and their answers as JSON bytes. Ray is started in the calling thread, and its processes end
    with that thread: make the executor where the run lives.

    Args:
        workers: How many actors, of one processor each.
        address: The cluster to join (``host:port``, or ``auto`` for one on this machine), which is left as it is in the
            end. None uses the one that this process is connected to, or else starts one here and ends it.
        threads: Threads each worker uses.
        log: File that the workers' output is appended to; None leaves it to Ray.
        grace_seconds: How long after its limit a job may still answer by itself.
        start_seconds: How long a worker may take until it is ready, with the wait for a free processor.
        lease_seconds: A worker that gives no sign of life for so long, because it was stopped or hangs, counts as dead.
        program: ``module:function`` of what returns the evaluation.

    Raises:
        ValueError: ``workers`` or ``threads`` is below one.
        ConfigError: Ray is not installed, the address cannot be joined, or the cluster is too small.
    """

    def __init__(
        self,
        workers: int,
        *,
        address: str | None = None,
        threads: int = 1,
        log: Path | None = None,
        grace_seconds: float = 1.0,
        start_seconds: float = 600.0,
        lease_seconds: float = 60.0,
        program: str = PROGRAM,
    ) -> None:
        check_positive(workers=workers, threads=threads)
        leave = join_ray(address, workers=workers)
        order = {"program": program, "folder": os.getcwd(), "log": None if log is None else str(log.absolute())}
        supervisor = Supervisor(
            workers,
            lambda words: RayWorker(json.dumps(order).encode(), threads=threads, log=words),
            log=log,
            grace_seconds=grace_seconds,
            start_seconds=start_seconds,
            lease_seconds=lease_seconds,
        )
        super().__init__(supervisor, leave=leave)


def import_ray() -> Any:
    """Return the module.

    Raises:
        ConfigError: It is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise ConfigError(f"run.executor: ray is not installed. {REMEDY}") from error
    return ray


def join_ray(address: str | None, *, workers: int) -> Callable[[], None]:
    """Connect this process to Ray and return how to leave it: what was there before is left as it is.

    Raises:
        ConfigError: The address cannot be joined, or the cluster has fewer processors than workers are wanted.
    """
    ray = import_ray()
    if ray.is_initialized():
        if address not in (None, "auto", ray.get_runtime_context().gcs_address):
            there = ray.get_runtime_context().gcs_address
            raise ConfigError(f"run.ray_address: this process is connected to {there} and cannot also join {address}.")
        _check_size(ray, workers)
        return lambda: None
    if address is not None:
        check_address(address)
    with _own_signals():
        _connect(ray, address, workers=workers)
    try:
        _check_size(ray, workers)
    except ConfigError:
        ray.shutdown()
        raise
    return ray.shutdown


def check_address(address: str) -> None:
    """Refuse at once what Ray itself would try to reach for minutes.

    Raises:
        ConfigError: It is no address, or nobody answers there.
    """
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdecimal():
        raise ConfigError(f"run.ray_address: must be auto or host:port of the cluster's head node, but got {address}.")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(f"run.ray_address: no cluster answers at {address}: {error}.") from error


def _connect(ray: Any, address: str | None, *, workers: int) -> None:
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    where = {"address": address}
    if address is None:
        where = {
            "address": "local",
            "num_cpus": workers,
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
        }
    try:
        ray.init(**where, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        first = str(error).strip().partition("\n")[0]
        if address is None:
            raise ConfigError(f"run.executor: ray does not start: {first}") from error
        remedy = "If the cluster asks for a token, set RAY_AUTH_MODE=token in the environment."
        raise ConfigError(f"run.ray_address: cannot join {address}: {first}. {remedy}") from error


def _check_size(ray: Any, workers: int) -> None:
    there = int(ray.cluster_resources().get("CPU", 0))
    if there < workers:
        raise ConfigError(f"run.workers: {workers} need a processor each, but the Ray cluster has {there}.")


@contextmanager
def _own_signals() -> Generator[None]:
    """Keep what this process does on SIGTERM, which Ray would replace."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class RayWorker(DriverEnd):
    """The driver's end of one actor.

    Ray's threads put what arrives into an inbox and ring a pipe, so that the supervisor waits for actors as it does for
    processes.

    Args:
        order: Of :meth:`TrialActor.prepare`.
        threads: Threads that its libraries may use.
        log: Open file that receives the reason where it does not start.
    """

    def __init__(self, order: bytes, *, threads: int, log: IO[bytes]) -> None:
        super().__init__()
        self._ray = import_ray()
        self._log = log
        self._pid: int | None = None
        self._host = ""
        self._inbox: queue.SimpleQueue[bytes | BaseException] = queue.SimpleQueue()
        self._bell, self._ringer = os.pipe()
        self._lock = threading.Lock()
        self._listening = True
        self._dead = threading.Event()
        actor = self._ray.remote(concurrency_groups={"life": 1})(TrialActor)
        self._actor = actor.options(
            num_cpus=1, max_restarts=0, max_task_retries=0, runtime_env={"env_vars": worker_environment(threads)}
        ).remote()
        self._expect(self._actor.prepare.remote(order))
        self._ask_for_life()

    @property
    def pid(self) -> int | None:
        """Return the process id on its own machine, or None while it is not known."""
        return self._pid

    def fileno(self) -> int:
        """Return the descriptor that rings, for a selector."""
        return self._bell

    def send(self, job: bytes) -> None:
        """Send a job as JSON; an actor that is dead already is noticed by the next read."""
        self._expect(self._actor.answer.remote(job))

    def read(self) -> tuple[list[Any], bool]:
        """Return the messages that have arrived, and whether the actor is gone.

        Where nothing has rung, what Ray has received but not yet delivered gets a moment: after a pause of this
        process, an answer must not lose against a deadline that passed while nobody looked.
        """
        ringing, _, _ = select.select([self._bell], [], [], IN_FLIGHT_SECONDS)
        if ringing:
            os.read(self._bell, 4096)
        messages: list[Any] = []
        gone = False
        while not self._inbox.empty():
            message = self._take(self._inbox.get())
            if message is None:
                gone = True
            else:
                messages.append(message)
        return messages, gone

    def kill(self) -> str:
        """End the actor, wait a little for it, and return where it ran."""
        with suppress(self._ray.exceptions.RayError):
            self._ray.kill(self._actor, no_restart=True)
        self._dead.wait(DEATH_SECONDS)
        if self._pid is not None and self._host == socket.gethostname():
            _wait_for_death(self._pid)
        with self._lock:
            self._listening = False
            os.close(self._bell)
            os.close(self._ringer)
        return "before it started" if self._pid is None else f"in process {self._pid} on node {self._host}"

    def _ask_for_life(self) -> None:
        self._expect(self._actor.alive.options(concurrency_group="life").remote())

    def _expect(self, reference: Any) -> None:
        reference.future().add_done_callback(self._arrived)

    def _arrived(self, future: Any) -> None:
        """Take a result or the reason why there is none; called by one of Ray's threads."""
        error = future.exception()
        if isinstance(error, self._ray.exceptions.RayActorError):
            self._dead.set()
        self._inbox.put(future.result() if error is None else error)
        with self._lock:
            if self._listening:
                os.write(self._ringer, b".")

    def _take(self, arrived: bytes | BaseException) -> dict[str, Any] | None:
        """Return a message, or None where the actor is lost, having noted why."""
        if isinstance(arrived, BaseException):
            self._note(str(arrived))
            return None
        self.heard = time.monotonic()
        message = json.loads(arrived)
        if "useless" in message:
            self._note(message["useless"])
            return None
        if message == ALIVE:
            self._ask_for_life()
        if message.get("ready"):
            self._pid, self._host = int(message["pid"]), str(message["host"])
            return READY
        return message

    def _note(self, error: str) -> None:
        """Write down why an actor did not start; one that ran has written its own last words."""
        if not self.ready:
            self._log.write(f"{error.strip()}\n".encode())
            self._log.flush()


def _wait_for_death(pid: int) -> None:
    """Wait for the end of an actor's process on this machine: Ray calls it dead earlier, and lets a stopped one be."""
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        if TrialActor.__name__ not in process.name():
            return
        try:
            process.wait(WILLING_SECONDS)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait(DEATH_SECONDS)
