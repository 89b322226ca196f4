"""Fairness sought by the outermost problem, and its rivals."""
