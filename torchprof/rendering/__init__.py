"""Figures -> text: the layout of tables, and how figures are written."""
