"""The labelling app: people write, rate, rank and compare; what they say goes straight into training. See docs/labelling.md."""
