"""Open WebUI without its limit of sign-ins, behind nginx, which has one (page.conf).

Open WebUI counts sign-ins by account and has no setting for that: with fifteen wrong passwords anybody locks the
owner of an account out, wherever the owner signs in from. Run by tools/serve and docker/compose.yaml, in Open WebUI's
environment, with the options of uvicorn: --uds PATH, or --host ADDRESS --port NUMBER.
"""

import argparse
import os

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--uds")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    options = parser.parse_args()

    os.environ["FROM_INIT_PY"] = "true"  # as `open-webui serve`

    import open_webui.main
    import uvicorn
    from open_webui.routers import auths

    auths.signin_rate_limiter.enabled = False
    address = {"uds": options.uds} if options.uds else {"host": options.host, "port": options.port}
    uvicorn.run(open_webui.main.app, forwarded_allow_ips="*", **address)
