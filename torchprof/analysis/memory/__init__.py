"""Trace -> what held every byte, and when."""
