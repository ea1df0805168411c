"""What ``smolrecipe verify`` proves of pretraining stages and of Hugging Face checkpoints, on a CPU in float32."""
