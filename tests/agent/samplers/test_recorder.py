"""The recorder: what becomes of a sampler's answers."""

from efficientquant_agent.errors import SensorError
from efficientquant_agent.run.watcher import SeriesRecorder
from efficientquant_agent.samplers.base import Budgeted, Sampler


class Scripted(Sampler):
    """Answers what the test says, one after the other."""

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
        """Give no more answers."""
        self._answers.clear()


def test_recorder():
    """Absent leaves no sample, broken ends its series with one log line, zero is a sample."""
    said = []
    recorder = SeriesRecorder(0.0, said.append)
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
    assert said == ["no more broken in this run: /sys/x: permission denied"]


def test_recorder_asks_whether_it_is_due():
    """A dear sampler is left alone until its last reading has been paid off."""
    recorder = SeriesRecorder(0.0, str)
    recorder.add([Budgeted(Scripted("dear", 1.0, 2.0), share=1e-12), Scripted("cheap", 3.0, 4.0)])

    recorder.sample()
    recorder.sample()

    assert [(series.name, series.value) for series in recorder.close()] == [("dear", [1.0]), ("cheap", [3.0, 4.0])]
