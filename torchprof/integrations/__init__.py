"""pytest, trainers and trackers, over the public names."""
