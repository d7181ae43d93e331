"""What a worker does beside requests: it obeys orders, reloads its configuration, samples and reports."""
