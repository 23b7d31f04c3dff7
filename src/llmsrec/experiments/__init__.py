"""Runs beside each other: compared, and repeated without a part."""
