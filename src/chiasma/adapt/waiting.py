"""Why a population does not grow, in words."""

from collections.abc import Mapping
from typing import Any

from chiasma.train.design import GrowthSpec


def no_room(rules: GrowthSpec, *, members: int) -> str | None:
    """Return what to say where there are as many members as there may be before anybody was born; None otherwise."""
    if rules.births != "guided" or members < rules.largest:
        return None
    return (
        f"growth waits: there are {members} members and growth.largest={rules.largest}, "
        "so that nobody is born before one has been found useless"
    )


def too_few_reviews(rules: GrowthSpec, *, reviews: int) -> str | None:
    """Return what to say where a newcomer that is born at once could not be promoted before the end; None otherwise.

    Args:
        rules: Of growth.
        reviews: Of the whole training; nothing happens in the last one.
    """
    needed = rules.probation + 2
    if rules.births == "none" or reviews >= needed:
        return None
    return (
        f"growth waits: this training has {reviews} reviews, but to be born and promoted after "
        f"growth.probation={rules.probation} takes {needed}; raise train.evaluations"
    )


def too_little_learned(rules: GrowthSpec, *, learned: float) -> str:
    """Return what to say while the model knows too little for anybody to show what it is worth."""
    return (
        f"growth waits: on steer, recalibrated, the loss is {100 * learned:.1f} % below that of the best constant "
        f"answer; growth begins at {100 * rules.learned:g} % (growth.learned)"
    )


def waited(rules: GrowthSpec, *, began: float) -> str:
    """Return what a report says where growth waited and then began, after this part of the training."""
    return (
        f"growth waited for {100 * began:.0f} % of the training, until the model had learned something "
        f"(growth.learned={rules.learned:g})"
    )


def never_began(rules: GrowthSpec, *, learned: float, began: float | None) -> str | None:
    """Return what to say at the end of a training that waited too long; None where it did not.

    Args:
        rules: Of growth.
        learned: Part by which the loss is now below that of the best constant answer.
        began: Part of the training after which growth began; None if it never did.
    """
    if began is None:
        return f"growth never began: {too_little_learned(rules, learned=learned).partition(': ')[2]}"
    if began > rules.last_birth:
        return (
            f"growth began after {100 * began:.0f} % of the training, "
            f"when nobody is born any more (growth.last_birth={rules.last_birth:g})"
        )
    return None


def waits_told(state: Mapping[str, Any]) -> tuple[str, ...]:
    """Return why growth waited, for the notes of a report.

    Args:
        state: What the ``state_dict`` of growth returned, or nothing.
    """
    return tuple(state.get("waits", {}).values())
