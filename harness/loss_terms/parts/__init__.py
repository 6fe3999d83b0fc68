"""What loss terms need beside the batch; no term itself."""
