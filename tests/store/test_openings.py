"""The ledger counts every look at a test split, across runs."""

import sqlite3
from pathlib import Path

import pytest

from chiasma.core.errors import StorageError
from chiasma.core.opening import TestOpening
from chiasma.store.openings import OpeningLedger


def test_openings_are_counted_for_each_dataset_across_runs(tmp_path: Path):
    ledger = OpeningLedger(tmp_path / "state")
    assert ledger.count("a") == 0
    first = ledger.open_test("a", run="run-1", verb="evolve")
    assert first == TestOpening(fingerprint="a", run="run-1", verb="evolve", before=0)
    ledger.open_test("b", run="run-1", verb="evolve")
    assert OpeningLedger(tmp_path / "state").open_test("a", run="run-2", verb="evaluate").before == 1
    assert (ledger.count("a"), ledger.count("b"), ledger.count("c")) == (2, 1, 0)


def test_every_look_counts_also_of_the_same_run(tmp_path: Path):
    ledger = OpeningLedger(tmp_path)
    assert [ledger.open_test("a", run="r", verb="evaluate").before for _ in range(3)] == [0, 1, 2]
    assert [(row.run, row.verb) for row in ledger.openings("a")] == [("r", "evaluate")] * 3


def test_a_resumed_run_gets_its_first_receipt_again(tmp_path: Path):
    ledger = OpeningLedger(tmp_path)
    ledger.open_test("a", run="earlier", verb="evolve")
    first = ledger.open_test("a", run="r", verb="evolve", once=True)
    ledger.open_test("a", run="later", verb="evolve")
    assert ledger.open_test("a", run="r", verb="evolve", once=True) == first
    assert first.before == 1
    assert ledger.count("a") == 3


def test_a_ledger_that_was_half_made_is_completed(tmp_path: Path):
    (tmp_path / "openings.db").touch()
    ledger = OpeningLedger(tmp_path)
    assert ledger.count("a") == 0
    assert ledger.open_test("a", run="r", verb="evolve").before == 0


def test_a_ledger_that_cannot_be_written_keeps_the_test_split_sealed(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="a part of the path is a file"):
        OpeningLedger(tmp_path / "file" / "state").open_test("a", run="r", verb="evolve")


def test_a_ledger_of_a_newer_version_is_refused(tmp_path: Path):
    ledger = OpeningLedger(tmp_path)
    ledger.open_test("a", run="r", verb="evolve")
    database = sqlite3.connect(ledger.path)
    database.execute("PRAGMA user_version=7")
    database.close()
    with pytest.raises(StorageError, match="schema version 7, but this chiasma knows versions up to 1"):
        ledger.count("a")
    with pytest.raises(StorageError, match="schema version 7"):
        ledger.open_test("a", run="r", verb="evolve")
