"""A Ray-based benchmark of loss-weighting strategies for knowledge distillation."""

import os

__version__ = "0.1.0"

# Large pages for PyTorch's large CPU tensors (Linux): without them an eighth of a small student's step goes into page faults
# for the word embeddings' gradient. PyTorch reads it once, at its first allocation.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
