"""What a round evaluates: its games, the coalitions that are evaluated in each, and the checks of both."""
