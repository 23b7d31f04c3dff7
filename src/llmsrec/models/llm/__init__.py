"""Recommenders around a language model."""
