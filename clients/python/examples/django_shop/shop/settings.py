"""As little as models need; the database is that of DATABASE_URL."""

import os
import urllib.parse

_url = urllib.parse.urlsplit(os.environ["DATABASE_URL"])

SECRET_KEY = "only an example"
USE_TZ = True
INSTALLED_APPS = ["shop"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": _url.path.lstrip("/"),
        "USER": urllib.parse.unquote(_url.username or ""),
        "PASSWORD": urllib.parse.unquote(_url.password or ""),
        "HOST": _url.hostname or "",
        "PORT": _url.port or "",
        # Connections outlive a request; kck_worker lets Django close those that broke.
        "CONN_MAX_AGE": 60,
    }
}
