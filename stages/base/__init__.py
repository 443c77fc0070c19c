"""The base stage: the model that training starts from. Run it with `python -m stages.base`."""
