"""One rank of many, on one machine without a GPU and without a network: a world that is not there, and what it changes."""
