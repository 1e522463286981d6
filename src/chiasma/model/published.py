"""What others have trained, put into a model that was just built: backbones of encoders, and a whole ViLBERT."""

from chiasma.model.encoders import pretrained
from chiasma.model.multimodal import MultimodalModel
from chiasma.model.vilbert_weights import load_vilbert


def load_published(model: MultimodalModel) -> None:
    """Give every part of a model that names published weights those weights.

    Raises:
        ConfigError: They cannot be had, are not those of the design, or do not fit it.
    """
    pretrained.load_published(model)
    load_vilbert(model)
