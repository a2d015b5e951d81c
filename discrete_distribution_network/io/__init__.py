"""Files that are written whole or not at all, and models saved as `config.json` and `model.safetensors`."""
