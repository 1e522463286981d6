"""What a dataset looks like to a model: which modalities, how large, and what is predicted."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from chiasma.core.spec import Spec

Task = Literal["classification", "multilabel", "regression", "contrastive", "generation", "multitask"]
PartTask = Literal["classification", "multilabel", "regression"]


class ImageInput(Spec):
    """Decoded images of one size.

    Attributes:
        mean: What a published image processor subtracts from each channel; None where the images are not its.
        deviation: What it then divides by.
    """

    kind: Literal["image"] = "image"
    channels: int = Field(ge=1)
    height: int = Field(ge=1)
    width: int = Field(ge=1)
    mean: tuple[float, ...] | None = None
    deviation: tuple[float, ...] | None = None


class TextInput(Spec):
    """Token ids, padded with 0 to one length.

    In our own word pieces id 1 is the unknown one, 2 the start of text (CLS), 3 the separator. Ids of a published
    tokenizer are one higher than its own.

    Attributes:
        tokenizer: Hash of a published tokenizer; None for word pieces that were learned from the data.
        padding: The id that such a tokenizer itself pads with; None where it does not.
        blank: The id that stands for a word that cannot be read; None where there is none.
        special: Ids that are not of words.
    """

    kind: Literal["text"] = "text"
    vocabulary: int = Field(ge=4)
    length: int = Field(ge=1)
    tokenizer: str | None = None
    padding: int | None = None
    blank: int | None = 1
    special: tuple[int, ...] = (1, 2, 3)


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
        task: One class out of C, any subset of C labels, or C real numbers; which image and which text belong
            together; a text; or several of the first three, one beside the other.
        labels: The C names, in the order of the model's outputs. Of pairs the two sides, of texts the word pieces, of
            several tasks those of all in order, each with its task's name before it.
        length: Token ids of a text that is written, its begin and end included; None for all other tasks.
        tasks: The several tasks, in order; empty where there is one.
    """

    task: Task
    labels: tuple[str, ...] = Field(min_length=1)
    length: int | None = Field(default=None, ge=3)
    tasks: tuple["NamedTask", ...] = ()

    @property
    def outputs(self) -> int:
        """Return C."""
        return len(self.labels)

    @property
    def columns(self) -> int:
        """Return how many numbers a row's label is written with."""
        if self.task == "multitask":
            return sum(each.target.columns for each in self.tasks)
        return {"classification": 1, "contrastive": 2}.get(self.task, self.length or self.outputs)

    @property
    def answer_width(self) -> int:
        """Return how many numbers a measured row needs at least: of a written text its ids, and its log loss."""
        return self.outputs if self.length is None else self.length + 1

    @model_validator(mode="after")
    def _whole(self) -> "Target":
        if (self.task == "multitask") != bool(self.tasks) or (self.task == "generation") != (self.length is not None):
            raise ValueError(
                "several tasks belong to task=multitask and a length to task=generation, each to nothing else, but "
                f"task={self.task}, tasks={[each.name for each in self.tasks]} and length={self.length}"
            )
        return self


class NamedTask(Spec):
    """One of several tasks.

    Attributes:
        name: Of its label column.
        target: What is predicted there.
    """

    name: str = Field(min_length=1)
    target: Target


class Signature(Spec):
    """Everything about a dataset that a model's shape depends on; saved with every model."""

    inputs: Mapping[str, InputSpec] = Field(min_length=1)
    target: Target
