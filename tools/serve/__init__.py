"""Serve a proven model with vLLM, nginx and Open WebUI, in containers or without."""
