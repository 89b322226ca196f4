"""States of engines on disk."""
