"""`gather`: the traces of all ranks, brought to one of them."""
