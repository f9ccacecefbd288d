"""Runs a program on fake tensors, so that it allocates as it would on the device."""
