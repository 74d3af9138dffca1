"""Names of hosts, looked up anew at every dial and without holding anything up."""

import socket
import threading

Address = tuple[str, int]


class Resolver:
    """Looks names up in threads, one for each name at a time; addresses need no look."""

    def __init__(self) -> None:
        self._asked: dict[Address, list[list[Address] | OSError]] = {}

    def resolve(self, address: Address, turn: int = 0) -> Address | OSError | None:
        """Return where (host, port) is now, or why that is not known; None: ask again soon.

        Of a name's addresses the `turn`th from 0, counted around: who adds one whenever an address
        was of no use comes to each of them, and stays with one that is.
        """
        host, port = address
        if _numeric(host):
            return address
        answer = self._asked.get(address)
        if answer is None:
            answer = self._asked[address] = []
            threading.Thread(target=_look_up, args=(host, port, answer), daemon=True).start()
        if not answer:
            return None
        del self._asked[address]  # the next dial looks again
        found = answer[0]
        return found if isinstance(found, OSError) else found[turn % len(found)]


def _numeric(host: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host.partition("%")[0])
        except OSError:
            continue
        return True
    return False


def _look_up(host: str, port: int, answer: list[list[Address] | OSError]) -> None:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        answer.append(OSError(getattr(error, "errno", None), f"{host} cannot be resolved: {why}"))
        return
    answer.append(list(dict.fromkeys((str(each[4][0]), port) for each in found)))
