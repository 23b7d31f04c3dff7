"""The systems that read items as texts and hold no large language model: CTRL and RECFORMER."""
