"""Trace -> figures, by subject. Needs numpy, and nothing of the recorder."""
