"""The composition root: only here do data, models, search and statistics meet."""
