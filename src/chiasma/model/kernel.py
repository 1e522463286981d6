"""What an attention kernel is: queries, keys and values of each head in, one vector a query out."""

from abc import ABC, abstractmethod

from jaxtyping import Bool, Float
from torch import Tensor, nn

from chiasma.core.spec import Spec


class Projections(Spec):
    """Which of the four linear maps of multi-head attention are learned; the others are the identity."""

    q: bool = True
    k: bool = True
    v: bool = True
    o: bool = True

    @property
    def learned(self) -> list[str]:
        """Return the names of those that are learned: ``W_q``, ``W_k``, ..."""
        return [f"W_{name}" for name in ("q", "k", "v", "o") if getattr(self, name)]


class AttentionKernel(nn.Module, ABC):
    """Mixes values where queries meet keys, for each head alike.

    Attributes:
        mixes_queries: Whether it also mixes tokens of the queries with each other. Its mask is then false in the
            rows of queries that do not count.
    """

    mixes_queries: bool = False

    @abstractmethod
    def forward(
        self,
        q: Float[Tensor, "B H Q D"],
        k: Float[Tensor, "B H K D"],
        v: Float[Tensor, "B H K D"],
        mask: Bool[Tensor, "B 1 #Q K"],
    ) -> Float[Tensor, "B H Q D"]:
        """Return one vector a query. Every query may see at least one key; hidden keys must not matter."""


class AttentionSettings(Spec):
    """What every attention has.

    Attributes:
        projections: Which linear maps around the kernel are learned.
    """

    projections: Projections = Projections()

    @property
    def self_only(self) -> bool:
        """Return whether only a sequence that looks at itself can use it."""
        return False

    @abstractmethod
    def build(self, head_dim: int) -> AttentionKernel:
        """Return the kernel for heads of width ``head_dim``."""
