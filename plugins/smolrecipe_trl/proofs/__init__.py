"""What ``smolrecipe verify`` proves of a model that TRL trained, by plain transformers and an independent reading."""
