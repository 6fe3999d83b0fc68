"""How a small step on each sample and term would change the loss on a meta batch."""
