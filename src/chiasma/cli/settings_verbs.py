"""``config show`` and ``config schema``: what can be set, and what is."""

import typer

from chiasma.cli.options import DataArgument, Debug, Settings, examples, takes_settings


def register(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    group = typer.Typer(help="Show settings and their schema.", no_args_is_help=True, rich_markup_mode="rich")
    group.command(
        "show", epilog=examples("chiasma config show", "chiasma config show --config quick --set optim.lr=3e-5")
    )(show)
    group.command("schema", epilog=examples("chiasma config schema > chiasma.schema.json"))(schema)
    app.add_typer(group, name="config")


@takes_settings()
def show(data: DataArgument = None, *, settings: Settings) -> None:
    """Print the settings that a command line leads to, as YAML, and what memory a training of them takes.

    Without any, also the presets' names. Memory is told where the settings say how large images and texts are.
    """
    import yaml

    from chiasma.experiment.compose import preset_names, preset_title
    from chiasma.experiment.memory import memory_lines

    config = settings.config_for(data)
    if settings.config is None:
        width = max(len(name) for name in preset_names())
        for name in preset_names():
            typer.echo(f"# --config {name:<{width}}  {preset_title(name)}")
    for line in memory_lines(config):
        typer.echo(f"# {line}")
    typer.echo(yaml.safe_dump(config.to_dict(), sort_keys=False, allow_unicode=True), nl=False)


def schema(debug: Debug = False) -> None:
    """Print the JSON schema of all settings, for editors that check and complete YAML."""
    import json

    from chiasma.experiment.config_schema import config_schema

    typer.echo(json.dumps(config_schema(), indent=2, ensure_ascii=False))
