//! What asks a process to end, and to read again: signals on Unix; on Windows what the console and the system send, of which none
//! asks to read again.

use std::io;

/// What asks the process to end.
#[cfg(unix)]
pub(super) struct Endings {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Endings {
    /// Listens from now on.
    pub(super) fn listen() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// The next one: its name, and what a process ends with that is ended by it.
    pub(super) async fn next(&mut self) -> (&'static str, i32) {
        tokio::select! {
            _ = self.terminate.recv() => ("SIGTERM", 128 + 15),
            _ = self.interrupt.recv() => ("SIGINT", 128 + 2),
        }
    }
}

/// What asks the process to read again.
#[cfg(unix)]
pub(super) struct Rereads(tokio::signal::unix::Signal);

#[cfg(unix)]
impl Rereads {
    /// Listens from now on.
    pub(super) fn listen() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        signal(SignalKind::hangup()).map(Self)
    }

    /// The name of the next one; none if there will be no more.
    pub(super) async fn next(&mut self) -> Option<&'static str> {
        self.0.recv().await.map(|()| "SIGHUP")
    }
}

/// What asks the process to end.
#[cfg(windows)]
pub(super) struct Endings {
    break_key: tokio::signal::windows::CtrlBreak,
    interrupt: tokio::signal::windows::CtrlC,
    shutdown: tokio::signal::windows::CtrlShutdown,
}

#[cfg(windows)]
impl Endings {
    /// Listens from now on.
    pub(super) fn listen() -> io::Result<Self> {
        use tokio::signal::windows::{ctrl_break, ctrl_c, ctrl_shutdown};
        Ok(Self { break_key: ctrl_break()?, interrupt: ctrl_c()?, shutdown: ctrl_shutdown()? })
    }

    /// The next one: its name, and what a process ends with that is ended by it (`STATUS_CONTROL_C_EXIT`).
    pub(super) async fn next(&mut self) -> (&'static str, i32) {
        const ENDED: i32 = 0xC000_013A_u32.cast_signed();
        tokio::select! {
            _ = self.break_key.recv() => ("CTRL+BREAK", ENDED),
            _ = self.interrupt.recv() => ("CTRL+C", ENDED),
            _ = self.shutdown.recv() => ("shutdown", ENDED),
        }
    }
}

/// What asks the process to read again: nothing does here, and files are read again by themselves.
#[cfg(windows)]
pub(super) struct Rereads;

#[cfg(windows)]
impl Rereads {
    /// Listens from now on.
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self)
    }

    /// There is none.
    pub(super) async fn next(&mut self) -> Option<&'static str> {
        None
    }
}
