"""Attention."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from chiasma.core.spec import Spec
from chiasma.model.plugins import Plugin


class Projections(Spec):
    """Which of the four linear maps of multi-head attention are learned; the others are the identity."""

    q: bool = True
    k: bool = True
    v: bool = True
    o: bool = True


class DotProduct(Spec):
    """Scaled dot-product attention."""

    kind: Literal["dot_product"] = "dot_product"
    projections: Projections = Projections()


class AttentionPlugin(Plugin):
    """Attention of a third party."""

    group: ClassVar[str] = "chiasma.attention"


AttentionSpec = Annotated[DotProduct | AttentionPlugin, Field(discriminator="kind")]
