"""A prepared dataset: memory-mapped columns in one folder, opened by the driver and by every worker alike."""
