"""The recorder of samplers' values."""

from efficientquant_agent.errors import SensorError
from efficientquant_agent.run.watcher import SeriesRecorder
from efficientquant_agent.samplers.base import Budgeted, Sampler


class Scripted(Sampler):
    """A sampler that gives a list of answers in order."""

    def __init__(self, name, *answers):
        self.name = name
        self._answers = list(answers)

    def sample(self):
        """Give the next answer."""
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self):
        """Drop the remaining answers."""
        self._answers.clear()


def test_recorder():
    """An absent value gives no sample, an error ends its series with one log line, zero is a sample."""
    log = []
    recorder = SeriesRecorder(0.0, log.append)
    recorder.add(
        [
            Scripted("zero", 0.0, 0.0),
            Scripted("absent", None, None),
            Scripted("broken", 1.0, SensorError("/sys/x", "permission denied")),
        ]
    )

    recorder.sample()
    recorder.sample()

    assert [(series.name, series.value) for series in recorder.close()] == [("zero", [0.0, 0.0]), ("broken", [1.0])]
    assert log == ["no more broken in this run: /sys/x: permission denied"]


def test_recorder_asks_whether_it_is_due():
    """A rate-limited sampler is not read again until it is due."""
    recorder = SeriesRecorder(0.0, str)
    recorder.add([Budgeted(Scripted("expensive", 1.0, 2.0), share=1e-12), Scripted("cheap", 3.0, 4.0)])

    recorder.sample()
    recorder.sample()

    assert [(series.name, series.value) for series in recorder.close()] == [
        ("expensive", [1.0]),
        ("cheap", [3.0, 4.0]),
    ]
