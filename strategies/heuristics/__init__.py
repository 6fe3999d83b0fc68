"""A weight for every sample, by a formula."""
