"""Which line of a program did what: the stack of every op and block, folded to the user's own code, and its figures."""
