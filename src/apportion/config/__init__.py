"""The options of a round: strict models by section, how they are read from YAML, and the hash of a JSON
value."""
