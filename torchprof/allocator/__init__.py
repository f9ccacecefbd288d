"""PyTorch's CUDA caching allocator, simulated: its settings, and replays of allocations and of memory snapshots."""
