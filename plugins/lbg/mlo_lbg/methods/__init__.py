"""Rows of a comparison: a schema for each kind of method, which trains it."""
