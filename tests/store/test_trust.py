"""Approvals of generated source: listed, named by the beginnings of their hashes, taken back."""

import pytest

from chiasma.core.errors import ConfigError
from chiasma.store.trust import Approval, approvals, forget_source, meant, trust_source

FIRST, SECOND = "ab" * 32, "abababab" + "cd" * 28


def test_approvals_are_listed_oldest_first_with_where_they_were_met(tmp_path):
    assert approvals(folder=tmp_path) == []
    trust_source(SECOND, named="model.fusion", folder=tmp_path)
    trust_source(FIRST, folder=tmp_path)
    found = approvals(folder=tmp_path)
    assert [(each.sha256, each.named) for each in found] == [(SECOND, "model.fusion"), (FIRST, "")]
    assert found[0].when <= found[1].when
    forget_source(SECOND, folder=tmp_path)
    assert approvals(folder=tmp_path) == [Approval(FIRST, found[1].when, "")]


def test_a_hash_is_meant_by_its_beginning_if_that_is_long_and_clear_enough():
    known = {FIRST: "model.fusion", SECOND: ""}
    assert meant(FIRST, known, option="--trust") == FIRST
    assert meant(SECOND[:9], known, option="--trust") == SECOND
    with pytest.raises(ConfigError, match=f"abababab is the beginning of 2 hashes: {FIRST} .model.fusion., {SECOND}"):
        meant("abababab", known, option="--trust")
    for short in ("abababa", "", "ABABABAB", FIRST + "0", "*" * 64):
        with pytest.raises(ConfigError, match="64 hexadecimal digits, or by the first 8 or more of them, but got"):
            meant(short, known, option="--trust")


def test_a_hash_that_names_nothing_is_refused_with_those_that_are_there():
    with pytest.raises(ConfigError) as caught:
        meant("0" * 64, {FIRST: "model.fusion"}, option="--trust")
    assert str(caught.value) == f"--trust: {'0' * 64} names no source here. There are: {FIRST} (model.fusion)."
    with pytest.raises(ConfigError, match=r"names no source here\. There is none\."):
        meant("0" * 64, {}, option="--withdraw")
