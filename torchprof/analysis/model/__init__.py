"""Trace -> the module tree, and what belongs to each of its modules."""
