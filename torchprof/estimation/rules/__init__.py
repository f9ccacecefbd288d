"""What a device does otherwise than the fake tensors' rules say: each rule with its source."""
