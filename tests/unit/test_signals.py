"""The first signal requests a stop, the second forces it, and the handlers from before come back."""

import os
import signal
import threading
import time

import pytest

from recipe.prepo.supervise.signals import REQUESTING, StopSignals


class Trainer:
    """Remembers the signals that were forwarded to it."""

    def __init__(self):
        self.got, self.requested = [], threading.Event()

    def __call__(self, name, closed):
        assert threading.current_thread() is not threading.main_thread()
        assert not closed.is_set()
        self.got.append(name)
        self.requested.set()


def send(number):
    os.kill(os.getpid(), number)
    time.sleep(0.01)  # the handler runs between two instructions of the main thread


@pytest.mark.parametrize("number", REQUESTING)
def test_the_first_signal_requests_once_and_the_work_goes_on(number, capfd):
    trainer = Trainer()
    before = [signal.getsignal(each) for each in REQUESTING]
    with StopSignals(trainer) as signals:
        assert trainer.got == [] and signals.requested_by == ""
        signal.signal(number, signal.SIG_DFL)  # as ray.init replaces SIGTERM's; would end this process
        signals.install()
        send(number)
        if number == signal.SIGUSR1:  # an early warning may be repeated
            send(number)
        assert trainer.requested.wait(5)
    assert trainer.got == [signals.requested_by] == [signal.Signals(number).name]
    assert "with a checkpoint" in capfd.readouterr().err
    assert [signal.getsignal(each) for each in REQUESTING] == before


def stop_twice(first, second):
    """Send both; returns the exit status."""
    trainer = Trainer()
    with pytest.raises(SystemExit) as stopped, StopSignals(trainer):
        send(first)
        assert trainer.requested.wait(5)
        send(second)
        time.sleep(60)
    assert trainer.got == [signal.Signals(first).name]
    return stopped.value.code


@pytest.mark.parametrize("first", REQUESTING)
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_stops_at_once_with_the_shells_status(first, second):
    assert stop_twice(first, second) == 128 + second


def test_a_reader_that_ended_with_the_same_ctrl_c_takes_no_signal_away():
    """`bash run_qwen.sh … 2>&1 | tee log`: standard error is a pipe without a reader then."""
    kept = os.dup(2)
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, 2)
    try:
        assert stop_twice(signal.SIGINT, signal.SIGINT) == 128 + signal.SIGINT
    finally:
        os.dup2(kept, 2)
        for descriptor in (kept, writer):
            os.close(descriptor)


def test_what_others_raise_is_passed_on():
    with pytest.raises(KeyboardInterrupt), StopSignals(Trainer()):
        raise KeyboardInterrupt
    # ray.init has a handler of its own in force meanwhile, which exits with the bare number.
    with pytest.raises(SystemExit) as stopped, StopSignals(Trainer()):
        raise SystemExit(signal.SIGTERM)
    assert stopped.value.code == 128 + signal.SIGTERM
