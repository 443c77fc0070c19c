"""Check what is served: the API itself, and its answers against training, eval and transformers."""
