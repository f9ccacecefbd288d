"""Rows -> text. Knows rows and traces, and nothing of how they were recorded."""
