"""Fusions as typed graphs: what a search composes, and what a config may spell out."""
