"""What must never be written down: keys, tokens and passwords, by the names they go by."""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

MASK = "***"

_SECRET_WORDS = "key|keys|apikey|token|secret|secrets|password|passwd|passphrase|pwd|credential|credentials|auth|bearer"
_SECRET_NAME = re.compile(rf"(?:^|[^a-z])(?:{_SECRET_WORDS})(?:$|[^a-z])", re.IGNORECASE)
_SECRET_VALUE = re.compile(
    r"\b(?:sk|pk|rk)-[A-Za-z0-9_-]{16,}|\bgh[opsur]_[A-Za-z0-9]{20,}|\bhf_[A-Za-z0-9]{20,}|\bAKIA[A-Z0-9]{16}"
    r"|\bxox[abprs]-[A-Za-z0-9-]{10,}|\beyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]+"
)
_URL_LOGIN = re.compile(r"(://[^/\s:@]+:)[^/\s@]+@")
SHORTEST_SECRET = 8
_WORKING_FOLDERS = frozenset({"PWD", "OLDPWD"})  # Paths: a run on data below them must stay readable.


def is_secret_name(name: str) -> bool:
    """Return whether a setting of this name holds a secret: ``llm.api_key`` and ``HF_TOKEN`` do, ``max_tokens`` not."""
    return _SECRET_NAME.search(name) is not None


def mask_command(command: Sequence[str]) -> list[str]:
    """Return a command line in which every secret reads ``***``."""
    masked: list[str] = []
    hide_next = False
    for argument in command:
        name, separator, value = argument.partition("=")
        if hide_next and not argument.startswith("--"):
            masked.append(MASK)
        elif separator and value and is_secret_name(name):
            masked.append(f"{name}={MASK}")
        else:
            masked.append(redact(argument))
        hide_next = not separator and argument.startswith("-") and is_secret_name(name)
    return masked


def redact(text: str) -> str:
    """Return ``text`` without the secrets it holds.

    Found are the values of environment variables with a secret's name, well-known forms of keys, and passwords in
    addresses. Values shorter than eight characters are too common to be searched for.
    """
    return _redact(text, _environment_secrets())


def redact_json(value: Any) -> Any:
    """Return plain JSON with every text redacted; keys stay as they are."""
    return _redact_json(value, _environment_secrets())


def _redact(text: str, secrets: Sequence[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, MASK)
    return _URL_LOGIN.sub(rf"\1{MASK}@", _SECRET_VALUE.sub(MASK, text))


def _redact_json(value: Any, secrets: Sequence[str]) -> Any:
    if isinstance(value, str):
        return _redact(value, secrets)
    if isinstance(value, Mapping):
        mapping = cast("Mapping[str, Any]", value)
        return {name: _redact_json(item, secrets) for name, item in mapping.items()}
    if isinstance(value, list | tuple):
        return [_redact_json(item, secrets) for item in cast("Sequence[Any]", value)]
    return value


def _environment_secrets() -> list[str]:
    values = {
        value
        for name, value in os.environ.items()
        if len(value) >= SHORTEST_SECRET and is_secret_name(name) and name not in _WORKING_FOLDERS
    }
    return sorted(values, key=len, reverse=True)
