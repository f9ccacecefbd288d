"""PyTorch -> Trace: starts and stops the compiled recorder, and knows the model that runs."""
