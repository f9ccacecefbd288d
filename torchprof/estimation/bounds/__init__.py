"""How fast a step can be: bounds of its time, from what it computes and what it sends."""
