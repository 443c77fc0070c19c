"""Page: how Open WebUI is set up, so that it shows the models that are served, to those who sign in, and no more."""

import json
from pathlib import Path

DATA = Path(".serve/data")  # accounts and chats; they stay when the server ends
SETTINGS = Path("docker/webui.env")  # what holds with containers and without


def variables(keys: dict[str, str], models: list[str], addresses: list[str], tools: bool) -> dict[str, str]:
    """Give Open WebUI's environment.

    Args:
        keys: what .env says.
        models: names of the models; the first is chosen for a new chat.
        addresses: of their endpoints.
        tools: whether vLLM was told how the model calls tools; else it refuses the page's own.
    """
    from dotenv import dotenv_values

    port, elsewhere = keys["WEBUI_PORT"], keys.get("WEBUI_URL")
    constant = {name: value or "" for name, value in dotenv_values(SETTINGS, interpolate=False).items()}
    return {
        **constant,
        "DATA_DIR": str(DATA.absolute()),
        "DEFAULT_MODELS": models[0],
        "DEFAULT_MODEL_METADATA": json.dumps({"capabilities": {"builtin_tools": tools}}),
        "OPENAI_API_BASE_URLS": ";".join(addresses),
        "OPENAI_API_KEYS": ";".join([keys["API_KEY"]] * len(addresses)),
        "WEBUI_ADMIN_EMAIL": keys["ADMIN_EMAIL"],
        "WEBUI_ADMIN_PASSWORD": keys["ADMIN_PASSWORD"],
        "WEBUI_SECRET_KEY": keys["WEBUI_SECRET_KEY"],
        # Where the page may be called from; behind another name, .env says WEBUI_URL.
        "CORS_ALLOW_ORIGIN": ";".join(
            filter(None, (f"http://127.0.0.1:{port}", f"http://localhost:{port}", elsewhere))
        ),
        **({"WEBUI_URL": elsewhere} if elsewhere else {}),
    }
