"""What medjax sees in a user's data before anything is trained on it."""
