"""What a file of order lines holds, and the configuration that would read it."""
