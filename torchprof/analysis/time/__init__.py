"""Trace -> times, FLOPs and bytes moved, by op, module and step."""
