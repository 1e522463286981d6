"""A jail for code that nobody has read: it computes, and can do nothing else."""

from chiasma.evaluate.jail.jail import Ended, Jail
from chiasma.evaluate.jail.level import GUARANTEES, Level
from chiasma.evaluate.jail.limits import Limits
from chiasma.evaluate.jail.lockdown import Layers
from chiasma.evaluate.jail.regions import Region, SharedArray
from chiasma.evaluate.jail.verdict import Refusal, Stopping

__all__ = ["GUARANTEES", "Ended", "Jail", "Layers", "Level", "Limits", "Refusal", "Region", "SharedArray", "Stopping"]
