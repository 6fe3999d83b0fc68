"""`results/<study>/`: the only truth about what was run. No torch, no Ray."""
