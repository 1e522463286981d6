"""Architectures: specs and the modules that they build."""
