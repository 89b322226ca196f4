"""Where the events of a record go."""
