"""Whether source that nobody has approved keeps its contract: read, then tried in the jail, before it is trained."""

from chiasma.evaluate.jail import Jail, Limits
from chiasma.evaluate.jail.said import plain
from chiasma.evaluate.jailed_trial import WORK, refusal_of, shared_jail
from chiasma.evaluate.screen import SourceRefusal, screen
from chiasma.model.generated import unapproved_in
from chiasma.train.design import Design

CHECK_SECONDS = 30.0


def fault_in(design: Design, jail: Jail | None = None, *, accept_lesser: bool = False) -> str | None:
    """Return why a design's source is not worth training, in one line for whoever wrote it; None where it may be.

    Args:
        design: What holds no unapproved source has no fault.
        jail: None for the process's own.
        accept_lesser: Where the machine lacks a guarantee, go on without it.

    Raises:
        JailError: The jail cannot be closed on this machine.
    """
    for part in unapproved_in(design):
        read = screen(part.source)
        if isinstance(read, SourceRefusal):
            return f"{read.rule}: {read.words}"
    if not unapproved_in(design):
        return None
    jail = jail or shared_jail(accept_lesser=accept_lesser)
    jail.start()
    request = {"model": design.model.to_dict()}
    ended = jail.run(f"{WORK}:check", request, inputs={}, outputs={}, limits=Limits(wall_seconds=CHECK_SECONDS))
    refused = refusal_of(ended)
    if refused is not None:
        return f"{refused.stage}: {refused.reason}"
    fault = (ended.answer or {}).get("fault")
    return None if fault is None else plain(fault)
