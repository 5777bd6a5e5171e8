"""From a model to predictions, metrics and statistics."""
