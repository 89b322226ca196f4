"""How a solved problem answers a cotangent."""
