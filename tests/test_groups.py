"""What a module's tests share is made once, because they run in one process."""

import pytest


@pytest.mark.xdist_group("together")
def test_those_who_hand_out_tests_know_their_groups(request: pytest.FixtureRequest):
    """pytest-xdist marks a test's id; a pytest that keeps the id elsewhere takes the groups apart without a word."""
    grouped = getattr(request.config.option, "loadgroup", False)
    assert request.node.nodeid.endswith("@together") == grouped
