"""The deployment: files against their schemas, real proxies in front, and the compose stack (`make compose-test`)."""
