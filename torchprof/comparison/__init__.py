"""Two recordings, estimates, summaries or accounts of memory side by side: what changed, and whether it is more than noise."""
