"""Handling of signals: held back, deferred, or turned into KeyboardInterrupt."""

import signal

import pytest

import talkinghead.cli as cli
from support.signals import STOP_SIGNALS, send_signal
from talkinghead.system.signals import defer_signals, graceful_shutdown, interruptible, signals_as_interrupts


def test_graceful_shutdown_replaces_and_restores_handler() -> None:
    before = signal.getsignal(signal.SIGINT)
    with graceful_shutdown() as stopped:
        assert not stopped()
        send_signal()
        assert stopped()
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("kind", STOP_SIGNALS)
def test_nested_graceful_shutdown_shares_signals(kind: int) -> None:
    before = signal.getsignal(kind)
    with graceful_shutdown() as outer:
        with graceful_shutdown() as inner:
            assert not inner()
            send_signal(kind)
            assert inner()
        send_signal(kind)  # the handlers are still the outer's
        with graceful_shutdown() as later:
            assert later() and outer()
    assert signal.getsignal(kind) is before


@pytest.mark.parametrize("kind", STOP_SIGNALS)
def test_interruptible_block_acts_on_earlier_signals(kind: int) -> None:
    with signals_as_interrupts(), graceful_shutdown() as stopped:
        with pytest.raises(KeyboardInterrupt), interruptible():
            send_signal(kind)
        send_signal(kind)
        assert stopped()


def test_deferred_signal_acts_after_block() -> None:
    reached = []
    with signals_as_interrupts(), graceful_shutdown():
        send_signal()
        with pytest.raises(KeyboardInterrupt), interruptible():
            reached.append(1)
    with signals_as_interrupts(), pytest.raises(KeyboardInterrupt), defer_signals():
        send_signal()
        reached.append(2)
    assert reached == [2]


@pytest.mark.parametrize("kind", STOP_SIGNALS)
def test_command_cleans_up_despite_further_signals(
    kind: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cleaned = []

    def work() -> None:
        try:
            send_signal(kind)
        finally:
            for other in STOP_SIGNALS:
                send_signal(other)
            cleaned.append(True)

    monkeypatch.setattr("talkinghead.cli.info_report.collect", work)
    before = [signal.getsignal(other) for other in STOP_SIGNALS]
    assert cli.main(["info"]) == cli.INTERRUPTED and cleaned
    assert capsys.readouterr().err == "talkinghead: interrupted\n"
    assert [signal.getsignal(other) for other in STOP_SIGNALS] == before


@pytest.mark.parametrize("kind", STOP_SIGNALS)
def test_ignored_signal_stays_ignored(kind: signal.Signals) -> None:
    """Check a signal ignored as SIGHUP is under nohup, and SIGINT in a shell's background job."""
    previous = signal.signal(kind, signal.SIG_IGN)
    other = next(other for other in STOP_SIGNALS if other != kind)
    try:
        with signals_as_interrupts(), graceful_shutdown() as stopped:
            send_signal(kind)
            assert not stopped()
            with graceful_shutdown() as inner:
                send_signal(other)
                assert inner()
            assert stopped()
    finally:
        signal.signal(kind, previous)
