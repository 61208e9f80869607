"""Gold: what people read: evidence, decisions, the served forecast."""
