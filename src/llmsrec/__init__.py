"""LLM-SRec: a frozen LLM that learns sequences from a sequential recommender (paper: "Lost in Sequence")."""
