"""LLM-SRec: a frozen LLM that learns sequences from a sequential recommender (paper: "Lost in Sequence")."""

import os

# At the end of each operation torch's OpenMP threads spin before they sleep. Beside another busy process they do so
# while one of them waits for a processor (`python -m benchmarks.beside`). The number is libgomp's own for more threads
# than there are processors; it counts if it is there when torch is imported.
if "OMP_WAIT_POLICY" not in os.environ:  # which it would overrule
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
