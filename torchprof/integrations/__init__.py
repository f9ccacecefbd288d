"""torchprof where people already work: pytest, trainers, trackers. Each needs a package, which is imported on first use."""
