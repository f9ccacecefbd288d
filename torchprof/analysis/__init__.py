"""Trace -> rows and figures. Needs numpy and nothing of the recorder; only replay.py runs the allocator in its extension."""
