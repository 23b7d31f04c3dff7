"""Raw formats, download, the built-in sample, five-core, split, candidates and checks."""
