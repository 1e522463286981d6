"""What a dataset looks like to a model: which modalities, how large, and what is predicted."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from chiasma.core.spec import Spec


class ImageInput(Spec):
    """Decoded images of one size."""

    kind: Literal["image"] = "image"
    channels: int = Field(ge=1)
    height: int = Field(ge=1)
    width: int = Field(ge=1)


class TextInput(Spec):
    """Token ids, padded with 0 to one length; id 1 is the unknown token, 2 the start of text (CLS), 3 the separator."""

    kind: Literal["text"] = "text"
    vocabulary: int = Field(ge=4)
    length: int = Field(ge=1)


class TokensInput(Spec):
    """Tokens made elsewhere by a frozen encoder."""

    kind: Literal["tokens"] = "tokens"
    count: int = Field(ge=1)
    dim: int = Field(ge=1)
    boxes: bool = False


InputSpec = Annotated[ImageInput | TextInput | TokensInput, Field(discriminator="kind")]


class Target(Spec):
    """What is predicted.

    Attributes:
        task: One class out of C, any subset of C labels, or C real numbers.
        labels: The C names, in the order of the model's outputs.
    """

    task: Literal["classification", "multilabel", "regression"]
    labels: tuple[str, ...] = Field(min_length=1)

    @property
    def outputs(self) -> int:
        """Return C."""
        return len(self.labels)


class Signature(Spec):
    """Everything about a dataset that a model's shape depends on; saved with every model."""

    inputs: Mapping[str, InputSpec] = Field(min_length=1)
    target: Target
