"""torchprof inside other programs: test runners, trainers, trackers."""
