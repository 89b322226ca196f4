"""A whole round of updates captured once and replayed, on a device that can."""
