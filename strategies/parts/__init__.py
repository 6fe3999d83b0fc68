"""What several strategies share; no strategy itself."""
