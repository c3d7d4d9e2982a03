"""`pocketvit serve MODEL`."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

from ..rundir import Outcome
from ..settings import Serve, verb

log = logging.getLogger("pocketvit")


@verb(Serve)
def serve(settings: Serve) -> Outcome:
    """Show a model in the browser: a page on this machine that labels dropped pictures with onnxruntime-web.

    It answers until Ctrl-C. `export MODEL --target web` writes the same page as a folder for any static server.
    """
    from ..deployment.files import export_web
    from ..deployment.web import address_of, find_runtime, server

    runtime = find_runtime(settings.runtime)  # told before anything is exported
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "web"
        _, told = export_web(settings.model, folder, runtime=runtime)
        with server(folder, settings.port, settings.host) as page:
            log.info("serving  %s (%s); Ctrl-C ends it", address_of(page), told)
            try:
                page.serve_forever()
            except KeyboardInterrupt:  # as it is meant to end
                return Outcome("stopped")
    return Outcome("stopped")
