"""Whoever writes fusions for the search: language models, near and far, and recorded answers."""
