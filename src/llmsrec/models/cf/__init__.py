"""Recommenders that know item ids alone."""
