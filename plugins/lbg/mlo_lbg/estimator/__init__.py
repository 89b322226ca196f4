"""Learning by Grouping in the conventions of scikit-learn."""
