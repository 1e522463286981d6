"""The JSON schema of all settings, with the descriptions that the specs' docstrings give."""

import re
from typing import Any

from chiasma.experiment.config import RunConfig

_ATTRIBUTE = re.compile(r"^    (\w+): (.*)$")


def config_schema() -> dict[str, Any]:
    """Return the JSON schema of :class:`RunConfig`; each field carries its line of the docstring."""
    schema = RunConfig.model_json_schema()
    for part in (schema, *schema.get("$defs", {}).values()):
        _describe(part)
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["properties"]["include"] = {
        "type": "array",
        "items": {"type": "string"},
        "description": "Presets or files that this one builds on; later ones win, and this file wins over all.",
    }
    return schema


def attributes(docstring: str) -> tuple[str, dict[str, str]]:
    """Return a docstring without its ``Attributes:`` section, and that section by name."""
    before, _, section = docstring.partition("Attributes:\n")
    found: dict[str, str] = {}
    name = ""
    for line in section.splitlines():
        if match := _ATTRIBUTE.match(line):
            name = match[1]
            found[name] = match[2].strip()
        elif name and line.startswith("     "):
            found[name] += " " + line.strip()
        elif line and not line.startswith(" "):
            break
    return before.strip(), found


def _describe(part: dict[str, Any]) -> None:
    summary, lines = attributes(part.get("description", ""))
    if summary:
        part["description"] = summary
    for name, text in lines.items():
        if name in part.get("properties", {}):
            part["properties"][name]["description"] = text
