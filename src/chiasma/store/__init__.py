"""What a run leaves on disk: the database, checkpoints, provenance, logs, and the ledger of test openings."""
