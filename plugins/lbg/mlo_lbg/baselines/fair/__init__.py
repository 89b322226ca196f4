"""Methods for fairness that grouping is compared with: reweighted, robust or corrected training."""
