"""What a language model's faults cost: a server that misbehaves, and searches that are killed while they ask.

    python benchmarks/faults_llm.py --kills 100

Prints one line a promise: faults that ended in time, answers that were paid for twice, dollars beyond the limit, places
where the key was found. The tests call the same functions with smaller numbers.
"""

import argparse
import logging
import multiprocessing
import os
import random
import signal
import sqlite3
import tempfile
import time
from collections import Counter
from pathlib import Path

from faults_store import Tally
from llm_fault_server import CASES, completion, says, serving

from chiasma.search.generators.generator import Message, Request, UnansweredError
from chiasma.search.generators.openai import OpenAIGenerator
from chiasma.search.generators.settings import LanguageModel, Prices
from chiasma.search.generators.store import AnswerStore
from chiasma.search.generators.stored import StoredGenerator

KEY = "canary-5f1d3c9b-not-a-real-key"
VARIABLE = "SERVER_KEY"
PRICES = Prices(prompt=1.0, answer=2.0)
TIMEOUT_SECONDS, DEADLINE_SECONDS = 0.5, 0.8

# Children come from a clean server process: quick to start, and nothing is forked from a process with open databases.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["chiasma.search.generators.openai"])


def request(number: int) -> Request:
    """Return one of many different requests."""
    message = Message(role="user", content=f"Write fusion {number}.")
    return Request(model="m", messages=(message,), template="1", seed=number, max_tokens=1000)


def asking(store: AnswerStore, url: str, *, cap: float | None = None, patience: float = 1.0) -> StoredGenerator:
    """Return a generator that asks the server through the store, and waits so many times as long for each answer."""
    settings = LanguageModel(
        model="m",
        base_url=url,
        variable=VARIABLE,
        prices=PRICES,
        timeout_seconds=patience * TIMEOUT_SECONDS,
        deadline_seconds=patience * DEADLINE_SECONDS,
        backoff_seconds=0.01,
    )
    return StoredGenerator(OpenAIGenerator(settings, store, cap=cap, environment={VARIABLE: KEY}), store)


def misbehave(folder: Path) -> tuple[Tally, float]:
    """Meet every fault once; return those that came to nothing usable, and the longest time that one took."""
    tally, longest = Tally(), 0.0
    for number, (name, act) in enumerate(CASES.items()):
        with serving([act]) as server, AnswerStore(folder / f"{number}.db") as store:
            started = time.monotonic()
            try:
                asking(store, server.url).answer(request(number))
            except UnansweredError:
                tally.faults += 1
            seconds = time.monotonic() - started
        longest = max(longest, seconds)
        if seconds > DEADLINE_SECONDS + 1.0:
            tally.bad += 1
            tally.notes.append(f"{name} took {seconds:.1f} s")
        tally.acknowledged += 1
    return tally, longest


def spend_at_random(folder: Path, *, requests: int, cap: float, seed: int = 0) -> Tally:
    """Ask while the server fails at random, and see whether more than the limit can have been charged."""
    rng = random.Random(seed)
    quick = [
        act for name, act in CASES.items() if not name.startswith(("hang", "slow", "401", "403", "404", "redirect"))
    ]
    acts = [*quick, *[CASES["good"]] * len(quick)]
    tally = Tally()
    with serving(choose=lambda body: rng.choice(acts)) as server, AnswerStore(folder / "spend.db") as store:
        # Without the breaker, which would stop asking long before the money is gone.
        asked = asking(store, server.url, cap=cap).generator
        for number in range(requests):
            try:
                asked.answer(request(number))
                tally.acknowledged += 1
            except UnansweredError:
                tally.faults += 1
        tally.bad = int(store.spent > cap)
        tally.notes = [f"${store.spent:.4f} of ${cap:g} after {len(server.calls)} calls"]
    return tally


def kill_while_asking(folder: Path, *, kills: int, seed: int = 0) -> Tally:
    """Kill a process again and again while it asks, and count the answers that were asked for after they were stored.

    Every call that was begun stands in the store; none was made after its request had been answered.
    """
    rng, tally = random.Random(seed), Tally()
    path = folder / "killed.db"
    with serving(choose=lambda body: _slow_answer) as server:
        for _ in range(kills):
            child = processes.Process(target=_ask_forever, args=(path, server.url))
            child.start()
            assert child.pid is not None
            before = len(server.calls)
            while len(server.calls) == before and child.is_alive():
                time.sleep(0.002)
            time.sleep(rng.uniform(0.0, 0.1))
            os.kill(child.pid, signal.SIGKILL)
            child.join()
            tally.faults += 1
        called = Counter(body["messages"][0]["content"] for body in server.calls)
    with AnswerStore(path) as store:
        tally.acknowledged = store.costs().answers
    database = sqlite3.connect(path)
    begun = dict(
        database.execute(
            "SELECT json_extract(requests.request, '$.messages[0].content'), count(*) FROM sent"
            " JOIN requests ON requests.hash = sent.request GROUP BY 1"
        ).fetchall()
    )
    ((late,),) = database.execute(
        "SELECT count(*) FROM sent JOIN results ON results.hash = sent.request WHERE sent.started > results.created"
    ).fetchall()
    (integrity,) = database.execute("PRAGMA integrity_check").fetchone()
    database.close()
    unrecorded = sum((called - Counter(begun)).values())
    tally.bad = int(late) + unrecorded + int(integrity != "ok")
    tally.notes = [f"{sum(called.values())} calls, {unrecorded} of them unrecorded, {late} after the answer was stored"]
    return tally


def _slow_answer(handler: object) -> None:
    time.sleep(0.01)
    says(completion())(handler)  # pyright: ignore[reportArgumentType]


def _ask_forever(path: Path, url: str) -> None:
    with AnswerStore(path) as store:
        # On a busy machine a good answer takes long, and here no fault of the server is looked for.
        asked = asking(store, url, patience=100.0)
        for number in range(1_000_000):
            asked.answer(request(number))


def find_key(folder: Path) -> Tally:
    """Meet every fault with logs at their most talkative, and look for the key in all that was written."""
    tally = Tally()
    handler = logging.FileHandler(folder / "all.log")
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(logging.DEBUG)
    try:
        misbehave(folder)
    finally:
        logging.getLogger().removeHandler(handler)
        logging.getLogger().setLevel(logging.WARNING)
        handler.close()
    for path in folder.iterdir():
        tally.faults += 1
        tally.bad += int(KEY.encode() in path.read_bytes())
    return tally


def main() -> None:
    """Print one line a promise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--requests", type=int, default=200)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folders = [Path(name) / each for each in ("faults", "spend", "kills", "key")]
        for folder in folders:
            folder.mkdir()
        tally, longest = misbehave(folders[0])
        print(
            f"faults and odd answers that ended in time {tally.acknowledged - tally.bad}/{tally.acknowledged}, "
            f"longest {longest:.2f} s of {DEADLINE_SECONDS:g} s allowed"
        )
        tally = spend_at_random(folders[1], requests=given.requests, cap=0.02)
        print(f"limit on dollars exceeded {tally.bad}/1: {tally.notes[0]}, {tally.acknowledged} answers")
        tally = kill_while_asking(folders[2], kills=given.kills)
        print(
            f"answers asked for twice {tally.bad} in {tally.faults} kills, {tally.acknowledged} answers; "
            f"{tally.notes[0]}"
        )
        tally = find_key(folders[3])
        print(f"files with the key {tally.bad}/{tally.faults}")


if __name__ == "__main__":
    main()
