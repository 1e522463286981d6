"""Attention as a graph: what a search discovers, and what a config may name."""

from typing import Literal

from pydantic import model_validator

from chiasma.model.graph.compile import kernel_class
from chiasma.model.graph.formula import formula
from chiasma.model.graph.graph import AttentionGraph
from chiasma.model.graph.known import known_as
from chiasma.model.kernel import AttentionKernel, AttentionSettings, Projections


class GraphAttention(AttentionSettings):
    """Attention that a typed graph describes; the standard one unless a graph is given.

    Projections of inputs that the graph does not use are off, whatever was asked: nobody would see what they learn.

    Attributes:
        graph: What happens between the projections.
    """

    kind: Literal["graph"] = "graph"
    graph: AttentionGraph = AttentionGraph()

    @model_validator(mode="after")
    def _projects_what_is_used(self) -> "GraphAttention":
        asked = self.projections
        used = {name: getattr(asked, name) and name in self.graph.used for name in ("q", "k", "v")}
        # A validator may not return another value than itself, and the canonical one is wanted.
        object.__setattr__(self, "projections", Projections(**used, o=asked.o))
        return self

    @property
    def self_only(self) -> bool:
        """Return whether only a sequence that looks at itself can use it."""
        return self.graph.self_only

    @property
    def words(self) -> str:
        """Return the formula, and which projections of what it uses are left out."""
        wanted = [name for name in ("q", "k", "v") if name in self.graph.used] + ["o"]
        missing = [f"W_{name}" for name in wanted if not getattr(self.projections, name)]
        return formula(self.graph) + (f", without {', '.join(missing)}" if missing else "")

    @property
    def known(self) -> str:
        """Return what the literature calls it, or what it is a variant of; empty where it is neither."""
        found = known_as(self.graph)
        if found is None:
            return ""
        exact = self.graph == found.graph and self == GraphAttention(graph=self.graph)
        return found.words if exact else f"a variant of {found.words}"

    def build(self, head_dim: int) -> AttentionKernel:
        """Return the kernel for heads of width ``head_dim``."""
        return kernel_class(self.graph)(head_dim)  # pyright: ignore[reportCallIssue]
