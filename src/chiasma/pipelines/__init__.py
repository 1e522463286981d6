"""Kedro pipelines: thin nodes over the same library that the command line calls.

``kedro run --pipeline=NAME`` in the repository, or ``python -m chiasma.pipelines --pipeline=NAME`` with the wheel and
the configuration that ``kedro package`` makes. ``docs/pipelines.md`` lists them with what they read and leave.
"""
