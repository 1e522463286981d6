"""What every layer shares: specs, seeds, outcomes, files and errors. Nothing here knows a neural network."""
