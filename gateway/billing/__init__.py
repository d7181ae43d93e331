"""Money: prices, a request's states, and what each ending costs. Pure."""
