"""Majordomo Steward: an LLM gateway inside the customer's network."""
