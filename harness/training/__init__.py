"""One trial in plain PyTorch, on one rank or several. It knows no plan, no store, no Ray."""
