"""Learning by Grouping: groups of examples and an expert for each, learned together."""
