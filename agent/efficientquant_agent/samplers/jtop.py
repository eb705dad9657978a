"""Quantities of jetson-stats' daemon, read only on request.

sysfs and tegrastats need no daemon and cost less.

jetson-stats is not installed with the agent (AGPL-3.0). Where it is installed, its client of version 4 or later is
imported. The client's thread receives the daemon's messages, and a sample here reads the last one.
"""

from typing import Any, Callable, List, Optional

from efficientquant_agent.errors import SensorError
from efficientquant_agent.samplers import power, thermal
from efficientquant_agent.samplers.base import Sampler


class Connection:
    """A started client of the daemon, closed with its last user."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self._users = 0

    def use(self) -> None:
        """Add one user."""
        self._users += 1

    def release(self) -> None:
        """Remove one user, and close the client after the last."""
        self._users -= 1
        if self._users == 0:
            self.client.close()


class JtopQuantity(Sampler):
    """One value of the daemon's last message.

    `rail` is the rail's name where the value is the power of a rail.
    """

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

        Raises SensorError when the daemon has exited or its message has another shape.
        """
        client = self._connection.client
        if not client.is_alive():
            raise SensorError("jtop", "the connection to jetson_stats' daemon has ended")
        try:
            return self._read(client)
        except (KeyError, TypeError, ValueError) as error:
            raise SensorError("jtop", "no {} in the daemon's message ({!r})".format(self.name, error)) from error

    def close(self) -> None:
        """Release the connection."""
        self._connection.release()


def jtop_samplers(interval_s: float, module: Any = None) -> Optional[List[Sampler]]:
    """Return samplers of the daemon's values, None without jetson-stats.

    `module` replaces the module `jtop` in tests. Raises SensorError when the daemon of an installed jetson-stats does
    not answer.
    """
    if module is None:
        try:
            import jtop
        except ImportError:
            return None
        module = jtop
    client = module.jtop(interval=interval_s)
    try:
        client.start()
    except (module.JtopException, OSError) as error:
        raise SensorError("jtop", str(error)) from error
    connection = Connection(client)
    return _memory(connection) + _gpu(connection) + _temperatures(connection) + _rails(connection)


def _memory(connection: Connection) -> List[Sampler]:
    """Return samplers of RAM and swap.

    The daemon counts both in KB of 1024 bytes.
    """
    return [
        JtopQuantity("board_used_bytes", connection, lambda client: client.memory["RAM"]["used"] * 1024.0),
        JtopQuantity("swap_used_bytes", connection, lambda client: client.memory["SWAP"]["used"] * 1024.0),
    ]


def _gpu(connection: Connection) -> List[Sampler]:
    """Return samplers of the first GPU's load and clock.

    The daemon counts them in percent and kHz.
    """
    gpus = list(connection.client.gpu)
    if not gpus:
        return []
    gpu = gpus[0]
    return [
        JtopQuantity("load_gpu", connection, lambda client: client.gpu[gpu]["status"]["load"] / 100),
        JtopQuantity("clock_gpu_hz", connection, lambda client: client.gpu[gpu]["freq"]["cur"] * 1000.0),
    ]


def _temperatures(connection: Connection) -> List[Sampler]:
    samplers: List[Sampler] = []
    for label in connection.client.temperature:
        zone = thermal.zone_name(label)
        if not thermal.is_dummy(zone):
            samplers.append(JtopQuantity(thermal.series_name(zone), connection, _temperature(label)))
    return samplers


def _temperature(label: str) -> Callable[[Any], Optional[float]]:
    def read(client: Any) -> Optional[float]:
        zone = client.temperature[label]
        return float(zone["temp"]) if zone["online"] and zone["temp"] > thermal.OFF_C else None

    return read


def _rails(connection: Connection) -> List[Sampler]:
    """Return samplers of the rails' power.

    The daemon counts it in mW. Its "avg" is an exponential filter and is not used.
    """
    return [
        JtopQuantity(power.series_name(rail), connection, _power(rail), rail)
        for rail in connection.client.power["rail"]
        if power.is_connected(rail)
    ]


def _power(rail: str) -> Callable[[Any], Optional[float]]:
    return lambda client: client.power["rail"][rail]["power"] / 1000
