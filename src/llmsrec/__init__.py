"""LLM-SRec: a frozen LLM that learns sequences from a sequential recommender (paper: "Lost in Sequence")."""

import os

# At the end of each operation torch's OpenMP threads spin before they sleep; beside another busy process they do so
# while one of them waits for a processor. libgomp's 300,000 rounds make that the most of the time, 10,000 cost nothing
# where nothing else runs (`python -m benchmarks.beside`). It counts if it is there when torch is imported.
if "OMP_WAIT_POLICY" not in os.environ:  # which it would overrule
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
