"""Which model is better, and how sure is that: win rates, reward-model quality, best-of-n, the table of results."""
