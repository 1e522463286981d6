"""Outcomes are typed, and stay what they are through the database."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from chiasma.core.outcome import Failed, Rejected, Scored, outcome_from_json

numbers = st.dictionaries(st.text(max_size=8), st.floats(allow_nan=False, allow_infinity=False), max_size=4)
outcomes = (
    st.builds(Scored, objectives=numbers, metrics=numbers)
    | st.builds(Rejected, stage=st.text(max_size=9), reason=st.text(max_size=9))
    | st.builds(Failed, error=st.text(max_size=9))
)


@given(outcomes)
def test_an_outcome_survives_json(outcome: Scored | Rejected | Failed):
    restored = outcome_from_json(outcome.to_json())
    assert restored == outcome
    assert type(restored) is type(outcome)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_crash_cannot_be_recorded_as_a_score(value: float):
    with pytest.raises(ValidationError, match="finite number"):
        Scored(objectives={"error": value})


def test_an_outcome_of_an_unknown_kind_is_refused():
    with pytest.raises(ValidationError, match="does not match any of the expected tags"):
        outcome_from_json('{"kind": "lucky", "objectives": {}}')
