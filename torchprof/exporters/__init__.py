"""Trace -> files of other tools: Chrome and Perfetto timelines, speedscope and folded flame graphs."""
