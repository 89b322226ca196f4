"""What tests of multilevel programs need: programs whose hypergradient is known."""
