"""The language model: how it is loaded, asked and made fast."""
