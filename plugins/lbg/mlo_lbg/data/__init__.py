"""Data sets as tensors: examples, minibatches that keep row numbers, and the digits demo."""
