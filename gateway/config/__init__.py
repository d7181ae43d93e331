"""Settings: the file and the environment, read once, checked, and explained where they are wrong."""
