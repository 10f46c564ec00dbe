"""What can go wrong between a client and the Hub, at requests of one's choice."""

import re
import time
from dataclasses import dataclass, field


@dataclass
class Fault:
    """The next `times` requests whose method and path match go wrong.

    Attributes:
        path: regular expression, searched in the path (without the query).
        method: GET, HEAD, POST, PUT; None for all.
        status: answer with this status instead; 0 to answer as usual.
        headers: of that answer, such as Retry-After.
        close: close the connection without an answer, before the request is carried out.
        lose_answer: carry the request out, then close the connection.
        delay: seconds to wait first.
        cut: bytes of the answer's body to send before the connection is closed, though all are announced.
        corrupt: change a byte of the answer's body.
        skip: requests that match and pass unharmed, before the first that does not.
    """

    path: str
    method: str | None = None
    times: int = 1
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    close: bool = False
    lose_answer: bool = False
    delay: float = 0.0
    cut: int | None = None
    corrupt: bool = False
    skip: int = 0

    def takes(self, method: str, path: str) -> bool:
        """Whether this request is one of those; counts it if so."""
        if not self.times or (self.method and self.method != method) or not re.search(self.path, path):
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.times -= 1
        time.sleep(self.delay)
        return True
