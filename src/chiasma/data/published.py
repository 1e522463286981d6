"""What others have published: backbones, tokenizers and image processors, in a folder or on the Hugging Face hub."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from chiasma.core.errors import ConfigError
from chiasma.core.spec import Spec, canonical_json

SMALL_FILES = (
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)
"""What is fetched to know a model: everything but its weights."""

INSTALL = "pip install 'chiasma[pretrained]'"


class Published(Spec):
    """Something published, written as its name alone: ``distilbert-base-uncased`` or a folder.

    Attributes:
        name: A folder, or a name of the Hugging Face hub.
        revision: Branch, tag or commit on the hub; None for its main branch.
        sha256: Hash of what was found there when it was first read; from then on nothing else is accepted.
    """

    name: str = Field(min_length=1)
    revision: str | None = None
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    def folder(self, files: Sequence[str] = SMALL_FILES) -> Path:
        """Return the folder that holds the files; errors as in :func:`published_folder`."""
        return published_folder(self.name, revision=self.revision, files=files)

    def checked(self, sha256: str, *, what: str) -> "Published":
        """Return the same with the hash of what was found, which from now on must be found.

        Raises:
            ConfigError: Something else was found before.
        """
        if self.sha256 not in (None, sha256):
            raise ConfigError(
                f"The {what} of {self.name} is not the one that was used before: its SHA-256 is {sha256[:16]}..., but "
                f"{str(self.sha256)[:16]}... is expected. Put the old files back, or begin anew."
            )
        return self.model_copy(update={"sha256": sha256})


def content_sha256(value: Any) -> str:
    """Return the SHA-256 of plain JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def published_folder(name: str, *, revision: str | None = None, files: Sequence[str]) -> Path:
    """Return a folder that holds what was published under a name.

    Args:
        name: A folder, or a name of the hub: what was fetched before is not fetched again.
        revision: Branch, tag or commit on the hub.
        files: Names of the files that are wanted; those that there are not are left out.

    Raises:
        ConfigError: There is no such folder, or the hub cannot be reached, does not know the name or does not give it.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise ConfigError(
            f"The folder {path} does not exist. It must hold what transformers' save_pretrained writes: config.json, "
            "model.safetensors, and the tokenizer's or image processor's files."
        )
    return _fetched(name, revision, files)


def _fetched(name: str, revision: str | None, files: Sequence[str]) -> Path:
    try:
        import httpx
        from huggingface_hub import errors, snapshot_download
    except ImportError:
        raise ConfigError(
            f"{name} is not a folder here, and fetching from the hub needs transformers: {INSTALL}."
        ) from None
    place = f"{name} is not a folder here, and"
    try:
        found = snapshot_download(name, revision=revision, allow_patterns=list(files))
    except errors.HFValidationError:
        raise ConfigError(
            f"{place} it cannot be a name of the Hugging Face hub, which looks like owner/model."
        ) from None
    except errors.GatedRepoError:
        raise ConfigError(
            f"{place} on the Hugging Face hub it is gated: accept its terms at https://huggingface.co/{name}, log in "
            "with `hf auth login`, and try again."
        ) from None
    except errors.RevisionNotFoundError:
        raise ConfigError(f"{place} on the Hugging Face hub it has no revision {revision!r}.") from None
    except errors.RepositoryNotFoundError:
        raise ConfigError(
            f"{place} the Hugging Face hub knows no such model. Check its spelling, log in with `hf auth login` if it "
            "is private, or name a folder."
        ) from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, errors.HfHubHTTPError, httpx.HTTPError):
        raise ConfigError(
            f"{place} the Hugging Face hub cannot be reached. Where there is a network: "
            f"`hf download {name} --local-dir FOLDER`; bring the folder here and use it as the name."
        ) from None
    return Path(found)
