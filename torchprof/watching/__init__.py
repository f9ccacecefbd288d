"""`torchprof.watch`: a few steps of a long job every so often."""
