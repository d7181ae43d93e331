"""The deployment: files against their schemas, fronts for real, and the compose stack's life (`make compose-test`)."""
