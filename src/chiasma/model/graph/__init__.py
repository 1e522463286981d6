"""Attention as a typed graph: what evolution edits, the compiler turns into a module, and a reader can follow."""
