"""Figures across the ranks of a distributed program, and of what they send to each other."""
