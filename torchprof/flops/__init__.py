"""The FLOPs of ops by formula: what does not need PyTorch, and so serves traces of other tools too."""
