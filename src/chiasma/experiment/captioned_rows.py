"""New rows get the captions that a model was trained with, from the same place."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from chiasma.core.errors import ConfigError, DataError
from chiasma.data.batch import Sample
from chiasma.data.captions import Captions, Describe, caption_for, read_captions, with_caption
from chiasma.data.published import Published
from chiasma.data.roles import text_columns
from chiasma.experiment.captions import captioner
from chiasma.experiment.console import Console
from chiasma.experiment.saved import SavedModel
from chiasma.model.encoders.published_weights import weight_files
from chiasma.store.folders import cache_folder

NONE = "none"


@dataclass(frozen=True)
class RowCaptions:
    """Where the captions of new rows come from.

    Attributes:
        captions: As the model remembers them, or as was asked for; None for no captions.
        known: Those of a file.
        describe: Writes captions of images.
    """

    captions: Captions | None = None
    known: Mapping[str, str] = field(default_factory=dict[str, str])
    describe: Describe | None = None

    @property
    def of_images(self) -> bool:
        """Return whether images are needed, even for a model that does not see them."""
        return self.describe is not None

    def text_columns(self, names: tuple[str, ...], columns: Sequence[str]) -> tuple[str, ...]:
        """Return the columns of the text, with that of captions where they have one.

        Raises:
            DataError: The table has no such column.
        """
        return text_columns(names, columns, self.captions)

    def from_file(self, text: str | None, identity: str, image: str | None) -> str | None:
        """Return a row's text with its caption from the file, if it has one there."""
        return with_caption(text, caption_for(self.known, identity, image))

    def written(self, samples: Sequence[Sample]) -> list[Sample]:
        """Return samples with what is written about their images behind their texts."""
        seen = [place for place, sample in enumerate(samples) if isinstance(sample.parts.get("image"), np.ndarray)]
        found = list(samples)
        if self.describe is None or not seen:
            return found
        texts = self.describe([np.asarray(samples[place].parts["image"]) for place in seen])
        for place, caption in zip(seen, texts, strict=True):
            parts = samples[place].parts
            text = parts.get("text")
            joined = with_caption(text if isinstance(text, str) else None, caption)
            if joined is not None:
                found[place] = replace(samples[place], parts={**parts, "text": joined})
        return found


def captions_for(
    saved: SavedModel, *, asked: str | None, device: str, console: Console, cache: Path | None = None
) -> RowCaptions:
    """Return where the captions of new rows come from: from where the model had them, unless something else is asked.

    Args:
        saved: The model.
        asked: A file of captions, a BLIP model's folder or name, or ``none``; None for what the model remembers.
        device: Where a captioner runs.
        console: Where progress goes.
        cache: Folder below which captions are kept; None for the usual one.

    Raises:
        ConfigError: What the model remembers is not here any more.
        DataError: A file of captions cannot be read.
    """
    known = saved.data("rows").captions
    captions = _asked(known, asked)
    if captions is None or captions.column is not None:
        return RowCaptions(captions)
    try:
        if captions.file is not None:
            return RowCaptions(captions, read_captions(Path(captions.file).expanduser()))
        assert captions.model is not None
        # Before any row: whoever writes captions is loaded when there is something to write.
        weight_files(captions.model.name, revision=captions.model.revision)
        describe = captioner(
            captions,
            cache=cache or cache_folder(),
            device=device,
            max_pixels=saved.max_pixels,
            console=console,
        )
    except (ConfigError, DataError) as error:
        if asked is not None:
            raise
        raise ConfigError(
            f"The model reads captions of images, and where they came from is not here: {error} Say where they come "
            "from (--captions FILE|FOLDER), or predict without (--captions none)."
        ) from None
    return RowCaptions(captions, describe=describe)


def _asked(known: Captions | None, asked: str | None) -> Captions | None:
    if asked is None:
        return known
    if asked == NONE:
        return None
    if known is None:
        raise ConfigError(f"--captions {asked}: the model was trained without captions.")
    if Path(asked).expanduser().is_file():
        return Captions(file=asked)
    # Another place for the same model, or another model: the user's own choice.
    sha256 = None if known.model is None else known.model.sha256
    return Captions(model=Published(name=asked, sha256=sha256), longest=known.longest)
