"""What training minimises, and the log-probabilities it is made of."""
