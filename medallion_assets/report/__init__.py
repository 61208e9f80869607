"""The page that a planner reads each month."""
