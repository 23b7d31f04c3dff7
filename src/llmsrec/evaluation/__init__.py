"""Pure numbers: ranks, metrics, slices, intervals and the report made of them."""
