"""What Kedro reads of the project; see https://docs.kedro.org/en/stable/configure/configuration_basics/."""

import os

from omegaconf.resolvers import oc

from chiasma.pipelines.hooks import EndedRuns

HOOKS = (EndedRuns(),)
# The plugin comes with Kedro and reports who runs what; it asks this variable, a file .telemetry, and this tuple.
os.environ.setdefault("KEDRO_DISABLE_TELEMETRY", "true")
DISABLE_HOOKS_FOR_PLUGINS = ("kedro-telemetry",)

CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": "local",
    # As in our own presets: ${oc.env:NAME,otherwise}.
    "custom_resolvers": {"oc.env": oc.env},
}
