"""Data-parallel training: every rank holds all parameters and a slice of each batch."""
