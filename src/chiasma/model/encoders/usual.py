"""The encoder that suits an input where nothing else is said."""

from chiasma.data.signature import ImageInput, InputSpec, TextInput
from chiasma.model.encoders.bert import Bert
from chiasma.model.encoders.convolution import Convolution
from chiasma.model.encoders.features import Features
from chiasma.model.encoders.ngram import NGram

SMALL_SIDE = 16


def usual_encoder(input: InputSpec, *, every_token: bool = False) -> Convolution | Bert | NGram | Features:
    """Return what learns fast from scratch on one core.

    Small images are read by a learned map of all places. In large ones the largest value of each feature finds small
    things many times faster. Bags of n-grams learn from fewer texts than a transformer. Of ready-made tokens
    the mean, half of it dropped at a time, is not learned by heart.

    Args:
        input: What is read.
        every_token: Hand over a token for each place, word or feature, for fusions that look at single ones.
    """
    if every_token:
        return _of_tokens(input)
    if isinstance(input, ImageInput):
        side = max(input.height, input.width)
        if side <= SMALL_SIDE:
            return Convolution(widths=(32, 64), grid=max(1, side // 2), pool="flatten")
        return Convolution(widths=(16, 32), grid=16, pool="max")
    return NGram(orders=2) if isinstance(input, TextInput) else Features(dropout=0.5, pool="mean")


def _of_tokens(input: InputSpec) -> Convolution | Bert | Features:
    if isinstance(input, ImageInput):
        side = max(input.height, input.width)
        # Where a token sees too little of a small image, attention learns nothing for many epochs.
        return Convolution(widths=(32, 64), grid=max(1, min(8, side // 4)), positions=True)
    return Bert(depth=1) if isinstance(input, TextInput) else Features(dropout=0.1, positions=True)
