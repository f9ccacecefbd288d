"""Runs a program and records it: PyTorch -> Trace. Starts and stops the compiled recorder, and reads the model."""
