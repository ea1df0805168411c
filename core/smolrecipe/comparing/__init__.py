"""What differs between two recipes or runs in meaning: options, tokens, learning rates, not text."""
