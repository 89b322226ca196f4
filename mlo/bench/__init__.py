"""Measurements of `mlo`: each case times it beside a hand-written loop and other libraries."""
