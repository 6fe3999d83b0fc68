"""From a study to cells and trials: identities, seeds, searches, checks, costs. No torch, no Ray."""
