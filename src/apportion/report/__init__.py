"""Credits and evidence of a round as one self-contained HTML page."""
