"""What the hardware does with the work: FLOPs, and benchmarks."""
