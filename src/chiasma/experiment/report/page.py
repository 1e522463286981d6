"""One HTML page from a template of this package: it opens without a network and runs no script."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


def page(template: str, **values: Any) -> str:
    """Return the page; the style sheet of all reports is its ``style``."""
    environment = Environment(
        loader=PackageLoader("chiasma.experiment.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    assert environment.loader is not None
    style, _, _ = environment.loader.get_source(environment, "style.css")
    return environment.get_template(template).render(style=Markup(style), **values)
