"""Methods that grouping is compared with: pure functions from training examples to a predictor."""
