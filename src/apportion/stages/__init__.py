"""One module per stage of a round: read records, call the maths, commit records."""
