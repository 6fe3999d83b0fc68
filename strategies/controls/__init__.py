"""What a gain must beat: random weights, and wrappers that take the sample-wise information away."""
