"""Encoders: one modality in, tokens out."""
