"""Bronze: order lines exactly as delivered, and the register of deliveries."""
