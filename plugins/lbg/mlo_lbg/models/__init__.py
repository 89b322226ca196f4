"""Network families, their sizes, and how deep or wide they may be within a parameter budget."""
