"""Figures -> Table: rows of figures by name, and the columns they are shown in."""
