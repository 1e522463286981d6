"""Proposers of designs, the archive that they share, and the allocator that feeds them."""
