"""Ends with 0 if the server of this container is ready, with 1 otherwise. HEALTH_URL says where to ask."""

import os
import sys
import urllib.request

URL = os.environ.get("HEALTH_URL", "http://127.0.0.1:8501/readyz")
TIMEOUT_S = 4

try:
    with urllib.request.urlopen(URL, timeout=TIMEOUT_S) as answer:
        print(answer.status)
except (OSError, ValueError) as error:  # urllib.error.URLError is an OSError
    sys.exit(f"{URL}: {error}")
