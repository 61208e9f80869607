"""What is watched: quality, drift, whether to train again, sensors."""
