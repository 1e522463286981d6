"""Encoders: one modality in, tokens out."""

from typing import Annotated

from pydantic import Field

from chiasma.model.encoders.bert import Bert
from chiasma.model.encoders.convolution import Convolution
from chiasma.model.encoders.encoder import Encoder, EncoderPlugin, resolve_encoder
from chiasma.model.encoders.features import Features
from chiasma.model.encoders.ngram import NGram
from chiasma.model.encoders.pixels import Pixels
from chiasma.model.encoders.pretrained import Pretrained
from chiasma.model.encoders.region_tokens import Regions
from chiasma.model.encoders.usual import usual_encoder
from chiasma.model.encoders.vit import ViT
from chiasma.model.encoders.words import Words

EncoderSpec = Annotated[
    Convolution | ViT | Pixels | Bert | NGram | Words | Features | Regions | Pretrained | EncoderPlugin,
    Field(discriminator="kind"),
]

__all__ = [
    "Bert",
    "Convolution",
    "Encoder",
    "EncoderPlugin",
    "EncoderSpec",
    "Features",
    "NGram",
    "Pixels",
    "Pretrained",
    "Regions",
    "ViT",
    "Words",
    "resolve_encoder",
    "usual_encoder",
]
