"""Keys and how they are read: API keys of teams, admin keys of operators. Pure."""
