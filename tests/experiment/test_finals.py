"""Who is trained in the finals, and which rounds count."""

from hypothesis import given
from hypothesis import strategies as st

from chiasma.core.outcome import Scored
from chiasma.core.spec import replace_at
from chiasma.experiment.finals import ArmDesign, complete_rounds, expected_costs, final_arms
from chiasma.search.archive import SharedArchive
from chiasma.search.design_space import DesignSpace
from chiasma.search.floors import floor_designs
from chiasma.search.protocols import Candidate, Evaluation

from .toy_run import SIGNATURE

DESIGN = floor_designs(SIGNATURE, DesignSpace(SIGNATURE, train_rows=1000))[0].design


def design(number: int):
    return replace_at(DESIGN, "training.optim.lr", 1e-3 * number)


def archive_of(*rows: tuple[int, str, int, float]) -> tuple[SharedArchive, dict[str, int]]:
    """Return an archive of (number, proposer, rung, error) and the numbers by hash."""
    archive = SharedArchive()
    for number, proposer, rung, error in rows:
        candidate = Candidate(proposer, design(number), design(number))
        archive.add(Evaluation(candidate, Scored(objectives={"error": error}), rung, 0, 1.0))
    return archive, {design(number).content_hash(): number for number, *_ in rows}


def names(arms: list[ArmDesign]) -> list[tuple[str, int]]:
    return [(arm.name, arm.candidate) for arm in arms]


def test_designs_that_were_trained_longest_go_first_whatever_a_short_training_promised():
    archive, numbers = archive_of((1, "local", 0, 0.01), (2, "local", 2, 0.2), (3, "local", 2, 0.1))
    arms = final_arms(archive, [], numbers=numbers, control="random", finalists=2)
    assert names(arms) == [("finalist 1", 3), ("finalist 2", 2)]


def test_the_best_of_the_control_is_an_arm_even_if_it_is_no_finalist():
    archive, numbers = archive_of((1, "local", 2, 0.1), (2, "random", 2, 0.3), (3, "random", 2, 0.2))
    arms = final_arms(archive, [], numbers=numbers, control="random", finalists=1)
    assert names(arms) == [("finalist 1", 1), ("random search", 3)]


def test_a_control_that_is_a_finalist_is_not_trained_twice():
    archive, numbers = archive_of((1, "random", 2, 0.1), (2, "local", 2, 0.3))
    arms = final_arms(archive, [], numbers=numbers, control="random", finalists=2)
    assert names(arms) == [("finalist 1", 1), ("finalist 2", 2)]


def test_floors_are_trained_as_floors_and_not_as_finalists():
    archive, numbers = archive_of((1, "floor", 2, 0.05), (2, "local", 2, 0.3))
    floor = ArmDesign("linear", "floor", "a floor", 1, design(1))
    arms = final_arms(archive, [floor], numbers=numbers, control="random", finalists=2)
    assert names(arms) == [("finalist 1", 2), ("linear", 1)]


def test_only_rounds_that_every_arm_finished_count():
    assert complete_rounds({"a": {0, 1, 2}, "b": {0, 2}}) == {0, 2}


def test_an_arm_that_was_rejected_does_not_spoil_the_rounds_of_the_others():
    assert complete_rounds({"a": {0, 1}, "b": set()}) == {0, 1}


def test_without_a_common_round_the_one_that_most_arms_finished_counts():
    assert complete_rounds({"a": {0}, "b": {1}, "c": {1}}) == {1}


@given(st.dictionaries(st.text(max_size=3), st.sets(st.integers(0, 4)), max_size=6))
def test_counted_rounds_were_finished_by_someone(rounds):
    assert complete_rounds(rounds) <= set().union(*rounds.values())


def test_what_was_not_trained_is_expected_to_cost_a_part_of_what_contains_it():
    floors = floor_designs(SIGNATURE, DesignSpace(SIGNATURE, train_rows=1000))
    arms = [ArmDesign(f.name, "floor", f.description, number, f.design) for number, f in enumerate(floors)]
    costs = dict(zip([arm.name for arm in arms], expected_costs(arms, {0: 10.0}, unknown=99.0), strict=True))
    assert costs["linear"] == 10.0
    assert costs["image_linear"] == costs["text_linear"] == 6.0
    assert costs["concat"] == 99.0
