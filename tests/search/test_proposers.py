import json

import pytest

from chiasma.core.outcome import Scored
from chiasma.core.rng import derive_seed
from chiasma.search.archive import SharedArchive
from chiasma.search.design_space import DesignSpace
from chiasma.search.local_search import LocalSearch
from chiasma.search.protocols import Evaluation
from chiasma.search.random_search import RandomSearch

PROPOSERS = {"random": RandomSearch, "local": LocalSearch}


@pytest.fixture
def space(signature):
    return DesignSpace(signature, train_rows=1000)


def score(candidate):
    """An error that depends on the design alone, as a deterministic training would give."""
    error = derive_seed(0, candidate.hash) / 2**63
    return Evaluation(candidate, Scored(objectives={"error": error}), 0, 0, 1.0)


def run(proposer, archive, asks, *, count=2):
    """Ask, score and tell so many times; return the candidates as text."""
    found = []
    for _ in range(asks):
        candidates = proposer.ask(count, archive)
        evaluations = [score(candidate) for candidate in candidates]
        for evaluation in evaluations:
            archive.add(evaluation)
        proposer.tell(evaluations)
        found += [(c.hash, c.edit, c.parents) for c in candidates]
    return found


@pytest.mark.parametrize("kind", PROPOSERS)
def test_a_search_that_is_saved_and_continued_proposes_the_same(space, kind):
    whole = run(PROPOSERS[kind](space, seed=3), SharedArchive(), 8)
    archive = SharedArchive()
    first = PROPOSERS[kind](space, seed=3)
    before = run(first, archive, 4)
    state = json.loads(json.dumps(first.state_dict()))
    second = PROPOSERS[kind](space, seed=3)
    second.load_state_dict(state)
    assert before + run(second, archive, 4) == whole


@pytest.mark.parametrize("kind", PROPOSERS)
def test_asking_for_two_is_asking_for_one_twice(space, kind):
    archive = SharedArchive()
    run(RandomSearch(space, seed=9), archive, 3)
    together = PROPOSERS[kind](space, seed=3).ask(2, archive)
    one_by_one = PROPOSERS[kind](space, seed=3)
    assert [one_by_one.ask(1, archive)[0] for _ in range(2)] == together


@pytest.mark.parametrize("kind", PROPOSERS)
def test_another_seed_proposes_something_else(space, kind):
    assert run(PROPOSERS[kind](space, seed=3), SharedArchive(), 2) != run(
        PROPOSERS[kind](space, seed=4), SharedArchive(), 2
    )


@pytest.mark.parametrize("kind", PROPOSERS)
def test_no_design_is_proposed_twice_and_repeats_are_counted(space, kind):
    class FewDesigns(DesignSpace):
        """Three designs in all."""

        def sample(self, rng):
            return super().sample(type(rng)(type(rng.bit_generator)(int(rng.integers(3)))))

        def mutate(self, genome, rng):
            return self.sample(rng), "another of three"

    few = FewDesigns(space.signature, train_rows=1000)
    proposer = PROPOSERS[kind](few, seed=0, **({"crossover": 0.0} if kind == "local" else {}))
    waiting = proposer.ask(2, SharedArchive())
    archive = SharedArchive()
    found = [hash for hash, _, _ in run(proposer, archive, 4)] + [candidate.hash for candidate in waiting]
    assert len(found) == len(set(found)) == 3
    assert proposer.duplicates > 20
    assert proposer.state_dict()["duplicates"] == proposer.duplicates


def test_local_search_samples_while_nothing_is_scored_and_then_edits_incumbents(space):
    archive = SharedArchive()
    proposer = LocalSearch(space, seed=0, crossover=0.0)
    (first,) = proposer.ask(1, archive)
    assert first.parents == ()
    assert first.edit == "a random design: nothing is scored yet"
    archive.add(score(first))
    children = proposer.ask(5, archive)
    assert all(child.parents == (first.hash,) for child in children)
    assert all(": " in child.edit for child in children)


def test_local_search_builds_on_what_another_proposer_found(space):
    archive = SharedArchive()
    (theirs,) = RandomSearch(space, seed=1).ask(1, archive)
    archive.add(score(theirs))
    (ours,) = LocalSearch(space, seed=1, crossover=0.0).ask(1, archive)
    assert ours.parents == (theirs.hash,)


def test_local_search_now_and_then_crosses_two_incumbents(space):
    archive = SharedArchive()
    run(RandomSearch(space, seed=1), archive, 4)
    children = LocalSearch(space, seed=1, crossover=1.0).ask(10, archive)
    crossed = [child for child in children if child.edit == "a cross of two good designs"]
    assert len(crossed) > 5
    assert all(len(set(child.parents)) == 2 for child in crossed)


def test_an_impossible_probability_of_crossover_is_refused(space):
    with pytest.raises(ValueError, match=r"crossover must be within 0..1, but got 2"):
        LocalSearch(space, seed=0, crossover=2)


def test_a_random_design_that_is_known_to_cost_too_much_is_drawn_again(space):
    def over(design) -> float:
        return max(0.0, design.model.dim / 64 - 1)

    free, held = (RandomSearch(space, seed=3, **given) for given in ({}, {"excess": over}))
    assert any(over(each.design) for each in free.ask(12, SharedArchive()))
    assert not any(over(each.design) for each in held.ask(12, SharedArchive()))


def test_where_every_random_design_costs_too_much_the_least_is_proposed(space):
    found = RandomSearch(space, seed=3, excess=lambda design: float(design.model.dim)).ask(1, SharedArchive())
    smallest = min(choice.design.model.dim for choice in RandomSearch(space, seed=3).ask(20, SharedArchive()))
    assert [each.design.model.dim for each in found] == [smallest]
