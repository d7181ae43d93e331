"""How fast the gateway is, beside what else could stand in its place; README.md says how to run and read it."""
