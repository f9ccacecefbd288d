"""Trace -> what devices did: kernels, busy and idle time."""
