"""SASRec, heads, losses, backbone, prompts and LLM-SRec: modules and functions without side effects."""
