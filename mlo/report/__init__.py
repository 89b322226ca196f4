"""One self-contained HTML page from the directories of one or more runs."""
