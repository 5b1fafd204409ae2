"""Side-by-side speed against what people use today; `make bench` runs all of it."""
