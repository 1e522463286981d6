import collections

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chiasma.search.allocator import BanditAllocator, SharesAllocator
from chiasma.search.protocols import Spend

ALLOCATORS = {
    "usual": BanditAllocator(["random", "local"], ["random"], floor_share=0.2),
    "no floor": BanditAllocator(["random", "local"], ["random"], floor_share=0.0),
    "two controls": BanditAllocator(["local", "random", "grid", "graph"], ["random", "grid"], floor_share=0.5),
}


def spend(allocator, pays, *, candidates=200):
    """Let each proposer answer with its ``(seconds, gain)`` and return the ledger."""
    ledger = []
    for _ in range(candidates):
        name = allocator.next(ledger)
        seconds, gain = pays[name]
        ledger.append(Spend(name, seconds, gain))
    return ledger


def share(ledger, name, *, of="seconds"):
    amounts = collections.Counter()
    for line in ledger:
        amounts[line.proposer] += line.seconds if of == "seconds" else 1
    return amounts[name] / amounts.total()


def test_every_proposer_is_tried_once_in_order():
    allocator = ALLOCATORS["two controls"]
    ledger = spend(allocator, dict.fromkeys(allocator.names, (1.0, 0.0)), candidates=4)
    assert [line.proposer for line in ledger] == ["local", "random", "grid", "graph"]


def test_the_budget_moves_to_the_proposer_that_pays():
    ledger = spend(ALLOCATORS["usual"], {"random": (1.0, 0.0), "local": (1.0, 0.01)})
    assert share(ledger, "local") > 0.6
    swapped = spend(ALLOCATORS["usual"], {"random": (1.0, 0.01), "local": (1.0, 0.0)})
    assert share(swapped, "random") > 0.6


def test_equal_gains_at_a_higher_price_are_worth_less():
    ledger = spend(ALLOCATORS["no floor"], {"random": (4.0, 0.01), "local": (1.0, 0.01)})
    assert share(ledger, "local", of="candidates") > 0.6


def test_a_proposer_that_stops_paying_loses_the_budget_again():
    early = [Spend("local", 1.0, 0.1), Spend("random", 1.0, 0.0)] * 10
    late = [Spend("local", 1.0, 0.0), Spend("random", 1.0, 0.01)] * 40
    assert ALLOCATORS["no floor"].next(early) == "local"
    assert ALLOCATORS["no floor"].next(early + late) == "random"


@pytest.mark.parametrize("seconds", [0.01, 1.0, 30.0], ids=["cheap", "equal", "expensive"])
@pytest.mark.parametrize("name", ["usual", "two controls"])
def test_controls_never_fall_below_their_floor_share_of_seconds_and_candidates(name, seconds):
    allocator = ALLOCATORS[name]
    pays = {n: (seconds, 0.0) if n in allocator.controls else (1.0, 0.05) for n in allocator.names}
    ledger = spend(allocator, pays, candidates=300)
    floor = allocator.floor_share / len(allocator.controls)
    for control in allocator.controls:
        for of in ("seconds", "candidates"):
            assert share(ledger, control, of=of) >= floor - 0.02


LEDGERS = st.lists(
    st.builds(
        Spend,
        proposer=st.sampled_from(["random", "local", "floor"]),
        seconds=st.floats(0, 100),
        gain=st.floats(0, 1),
    ),
    max_size=40,
)


@given(LEDGERS)
def test_the_choice_is_a_function_of_the_ledger_and_always_a_known_name(ledger):
    first = BanditAllocator(["random", "local"], ["random"]).next(ledger)
    again = BanditAllocator(["random", "local"], ["random"]).next(list(ledger))
    assert first == again
    assert first in ("random", "local")


@given(LEDGERS)
def test_a_control_that_is_behind_is_always_next(ledger):
    allocator = BanditAllocator(["local", "random"], ["random"], floor_share=0.3)
    known = [line for line in ledger if line.proposer != "floor"]
    tried = {line.proposer for line in known}
    total = sum(line.seconds for line in known)
    if len(tried) == 2 and total > 0 and share(known, "random") < 0.3:
        assert allocator.next(ledger) == "random"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"names": []}, "names must be distinct and at least one, but got"),
        ({"names": ["a", "a"]}, r"distinct and at least one, but got \['a', 'a'\]"),
        ({"controls": ["b"]}, r"controls must be among names \['a'\], but \['b'\] are not"),
        ({"floor_share": 1.5}, "floor_share must be within 0..1, but got 1.5"),
        ({"discount": 0.0}, "discount must be above 0 and at most 1, but got 0.0"),
        ({"exploration": -1.0}, "exploration must not be negative, but got -1.0"),
    ],
)
def test_impossible_settings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        BanditAllocator(**{"names": ["a"], "controls": [], **arguments})


def test_fixed_shares_are_kept_whatever_pays():
    allocator = SharesAllocator({"attention": 0.8, "random": 0.2})
    ledger: list[Spend] = []
    for _ in range(50):
        name = allocator.next(ledger)
        ledger.append(Spend(name, 1.0, 1.0 if name == "random" else 0.0))
    assert collections.Counter(spend.proposer for spend in ledger) == {"attention": 40, "random": 10}


def test_lines_of_strangers_do_not_count_against_a_share():
    allocator = SharesAllocator({"attention": 0.5, "random": 0.5})
    assert allocator.next([Spend("floor", 1.0, 0.0)] * 9) == "attention"


@pytest.mark.parametrize("shares", [{}, {"random": 0.0}])
def test_shares_that_give_nobody_anything_are_refused(shares):
    with pytest.raises(ValueError, match="shares must be positive"):
        SharesAllocator(shares)
