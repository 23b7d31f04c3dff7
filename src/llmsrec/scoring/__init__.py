"""Recommendations for many users at once, from a bundle to one parquet file."""
