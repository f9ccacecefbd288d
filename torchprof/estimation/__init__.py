"""Estimates: a program run on fake tensors, counted, and given to a simulated allocator."""
