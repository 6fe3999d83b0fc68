"""One weight for all samples, throughout."""
