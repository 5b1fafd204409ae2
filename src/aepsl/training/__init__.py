"""One training loop for every network, its optimiser groups, schedules and model files."""
