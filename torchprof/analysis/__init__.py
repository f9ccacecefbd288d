"""Trace -> rows and figures. Needs numpy and nothing of the recorder, except that allocator.py replays in its extension."""
