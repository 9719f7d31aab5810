"""The ground floor: errors, seeded streams, files, statistics, progress. Imports nothing of ours; every room may stand on it."""
