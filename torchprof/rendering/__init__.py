"""Figures -> text and files. Knows traces and tables, and nothing of how they were recorded."""
