"""``python -m chiasma.pipelines``: ``kedro run`` of the installed package."""

import os
from typing import Any


def main(*words: Any) -> Any:
    """Run the process's own command line, as ``kedro run`` does."""
    # Before Kedro is imported: its plugin would report who runs what.
    os.environ.setdefault("KEDRO_DISABLE_TELEMETRY", "true")
    from kedro.framework.cli.utils import find_run_command
    from kedro.framework.project import configure_project

    configure_project("chiasma.pipelines")
    return find_run_command("chiasma.pipelines")(*words)


if __name__ == "__main__":
    main()
