"""A team's forecasting notebook, taken over with evidence. docs/migrate.md walks through it."""
