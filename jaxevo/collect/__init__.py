"""The host half of a round: instruments, ready-made waves, packing."""
