"""What jetson-stats' daemon says, for who asks for it by name; sysfs and tegrastats need no daemon and cost less.

jetson-stats is not installed with the agent (AGPL-3.0); where it is, its client of version 4 or later is imported.
Its thread receives the daemon's messages, so that a sample here is a look into the last one.
"""

from typing import Any, Callable, List, Optional

from efficientquant_agent.errors import SensorError
from efficientquant_agent.samplers import power, thermal
from efficientquant_agent.samplers.base import Sampler


class Connection:
    """A started client of the daemon, closed when the last of its users lets go."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self._users = 0

    def use(self) -> None:
        """Count one user more."""
        self._users += 1

    def release(self) -> None:
        """Count one user less."""
        self._users -= 1
        if self._users == 0:
            self.client.close()


class JtopQuantity(Sampler):
    """One value of the daemon's last message; `rail` names the rail that it is the power of."""

    def __init__(
        self, name: str, connection: Connection, read: Callable[[Any], Optional[float]], rail: Optional[str] = None
    ) -> None:
        self.name = name
        self.rail = rail
        self._connection = connection
        self._read = read
        connection.use()

    def sample(self) -> Optional[float]:
        """Return the value, None while the part is off.

        Raises SensorError when the daemon is gone or its message has another shape.
        """
        client = self._connection.client
        if not client.is_alive():
            raise SensorError("jtop", "the connection to jetson_stats' daemon has ended")
        try:
            return self._read(client)
        except (KeyError, TypeError, ValueError) as error:
            raise SensorError("jtop", "no {} in the daemon's message ({!r})".format(self.name, error)) from error

    def close(self) -> None:
        """Let go of the connection."""
        self._connection.release()


def jtop_samplers(interval_s: float, jtop: Optional[Any] = None) -> Optional[List[Sampler]]:
    """Return samplers for what the daemon tells about this board, None where jetson-stats is not installed.

    `jtop` is the module, for tests. Raises SensorError when it is installed and its daemon does not answer.
    """
    if jtop is None:
        try:
            import jtop
        except ImportError:
            return None
    client = jtop.jtop(interval=interval_s)
    try:
        client.start()
    except (jtop.JtopException, OSError) as error:
        raise SensorError("jtop", str(error)) from error
    connection = Connection(client)
    return _memory(connection) + _gpu(connection) + _temperatures(connection) + _rails(connection)


def _memory(connection: Connection) -> List[Sampler]:
    """RAM and swap, which the daemon counts in KB of 1024 bytes."""
    return [
        JtopQuantity("board_used_bytes", connection, lambda client: client.memory["RAM"]["used"] * 1024.0),
        JtopQuantity("swap_used_bytes", connection, lambda client: client.memory["SWAP"]["used"] * 1024.0),
    ]


def _gpu(connection: Connection) -> List[Sampler]:
    """Load in percent and clock in kHz, of the first GPU."""
    found: List[Sampler] = []
    for gpu in list(connection.client.gpu)[:1]:
        found.append(
            JtopQuantity("load_gpu", connection, lambda client, gpu=gpu: client.gpu[gpu]["status"]["load"] / 100)
        )
        found.append(
            JtopQuantity("clock_gpu_hz", connection, lambda client, gpu=gpu: client.gpu[gpu]["freq"]["cur"] * 1000.0)
        )
    return found


def _temperatures(connection: Connection) -> List[Sampler]:
    found: List[Sampler] = []
    for label in connection.client.temperature:
        zone = thermal.zone_name(label)
        if not thermal.is_dummy(zone):
            found.append(JtopQuantity(thermal.series_name(zone), connection, _temperature(label)))
    return found


def _temperature(label: str) -> Callable[[Any], Optional[float]]:
    def read(client: Any) -> Optional[float]:
        zone = client.temperature[label]
        return float(zone["temp"]) if zone["online"] and zone["temp"] > thermal.OFF_C else None

    return read


def _rails(connection: Connection) -> List[Sampler]:
    """Power in mW; the daemon's "avg" is an exponential filter, so it is left alone."""
    return [
        JtopQuantity(power.series_name(rail), connection, _power(rail), rail)
        for rail in connection.client.power["rail"]
        if power.is_connected(rail)
    ]


def _power(rail: str) -> Callable[[Any], Optional[float]]:
    return lambda client: client.power["rail"][rail]["power"] / 1000
