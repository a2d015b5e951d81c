"""Files that are written whole or not at all, and models saved as safetensors beside a `config.json`."""
