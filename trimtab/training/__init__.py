"""The one loop and what it stands on: optimizer and schedule, run folder, checkpoint. Knows no method."""
