"""Trace -> rows and figures. Needs numpy and nothing of the recorder."""
