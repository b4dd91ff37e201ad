"""What a round evaluates, by phase: its games, the coalitions they are wanted for, and the checks of both."""
