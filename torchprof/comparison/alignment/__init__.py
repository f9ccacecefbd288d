"""Which row of the one side is which of the other."""
