"""What published ViLBERT weights can read: region features, and the ids of BERT's tokenizer."""

from collections.abc import Mapping

from chiasma.core.errors import ConfigError
from chiasma.core.spec import Spec
from chiasma.data.signature import ImageInput, Signature, TextInput
from chiasma.model.attention import DotProduct
from chiasma.model.encoders import EncoderSpec, Regions, Words
from chiasma.model.fusion import ViLBERT

NO_FEATURES = (
    "published ViLBERT weights read region features, not pixels: chiasma features DATA --extractor resnet (or "
    "fasterrcnn, fasterrcnn_vg) -o image.safetensors, then --features image=image.safetensors; or begin from scratch "
    "with how images are read: --set model.fusion.fresh_image=true."
)


def check_published_inputs(fusion: Spec | None, encoders: Mapping[str, EncoderSpec], signature: Signature) -> None:
    """Refuse encoders and data that a ViLBERT's published weights were not made for, before anything is built.

    Raises:
        ConfigError: Says which setting is to be changed.
    """
    if not isinstance(fusion, ViLBERT) or fusion.weights is None:
        return
    for name, wanted in (("image", Regions), ("text", Words)):
        if not isinstance(encoders[name], wanted):
            kind = wanted.model_fields["kind"].default
            raise ConfigError(
                f"encoders.{name}: published ViLBERT weights are for kind {kind!r}, but it is {encoders[name].kind!r}."
            )
    if fusion.attention != DotProduct():
        raise ConfigError("fusion.attention: published ViLBERT weights are for dot_product with all its projections.")
    if isinstance(signature.inputs["image"], ImageInput) and not fusion.fresh_image:
        raise ConfigError(f"encoders.image: {NO_FEATURES}")
    text = signature.inputs["text"]
    if isinstance(text, TextInput) and text.tokenizer is None:
        raise ConfigError(
            "encoders.text: published ViLBERT weights read ids of BERT's tokenizer, but these data were prepared with "
            "word pieces of their own: data.tokenizer=google-bert/bert-base-uncased."
        )
