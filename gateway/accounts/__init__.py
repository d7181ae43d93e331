"""Teams, API keys, admin keys, sessions and credits, as the store keeps them."""
