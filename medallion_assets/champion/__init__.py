"""Who serves: the evidence compared, the decision and its record."""
