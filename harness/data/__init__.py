"""Rows: where they come from, the roles they may play, tokenising, batches, and the cached outputs of teachers."""
