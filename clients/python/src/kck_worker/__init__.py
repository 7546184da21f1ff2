"""kck_worker: functions of yours as products and processes of kck.

`python3 -m kck_worker MODULE` imports your modules and answers what kck asks for, over lines of JSON.
"""

from .encode import Raw
from .registry import Failure, process, product
from .request import Request, async_client, client, current

__all__ = ["Failure", "Raw", "Request", "async_client", "client", "current", "process", "product"]
