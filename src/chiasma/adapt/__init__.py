"""Changes a model while it trains."""
