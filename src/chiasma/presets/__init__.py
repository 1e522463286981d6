"""Presets as YAML files, found by name with ``--config``."""
