"""The rules that look at all ranks of a run together, one a file."""
