"""A jail for code that nobody has read: it computes, and can do nothing else."""

from chiasma.evaluate.jail.jail import Ended, Jail, Refusal
from chiasma.evaluate.jail.level import GUARANTEES, Level
from chiasma.evaluate.jail.limits import Limits
from chiasma.evaluate.jail.lockdown import Layers
from chiasma.evaluate.jail.regions import Region, SharedArray

__all__ = ["GUARANTEES", "Ended", "Jail", "Layers", "Level", "Limits", "Refusal", "Region", "SharedArray"]
