"""One weight for all samples, which changes over the training."""
