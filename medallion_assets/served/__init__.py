"""What is published, and how it did."""
