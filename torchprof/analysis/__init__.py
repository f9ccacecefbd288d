"""Trace -> rows and figures. Needs numpy and nothing of the recorder, except that replay.py runs the allocator in its extension."""
