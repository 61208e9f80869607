"""Silver: accepted lines, what was not accepted and why, parts, monthly demand and features."""
