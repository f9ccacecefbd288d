"""Times calls of a function while nothing records them, and tells what further, recorded calls did."""
