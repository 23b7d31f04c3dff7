"""The paper's prompts as token ids."""
