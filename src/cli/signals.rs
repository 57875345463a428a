//! Signals: a server ends when told to, and by the signal itself; a session's answer ends by Ctrl-C.
//! Everything else keeps the system's defaults, so that Ctrl-C ends a run at once, also during a load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::{flag, low_level};

use crate::error::{Error, Result};

/// Notes Ctrl-C, which in a session ends only the answer.
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Notes SIGINT from now on.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn on_signal() -> Result<Self> {
        let wanted = Arc::default();
        flag::register(SIGINT, Arc::clone(&wanted))
            .map_err(|error| Error::failed(format!("cannot watch for signals: {error}")))?;
        Ok(Interrupt(wanted))
    }

    /// Set once the signal has come.
    pub fn flag(&self) -> Arc<AtomicBool> {
        self.0.clone()
    }

    /// Forgets a signal that came earlier.
    pub fn forget(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Notes SIGHUP, which asks a server to read its files again.
///
/// # Errors
/// If the system refuses.
pub fn again() -> Result<Arc<AtomicBool>> {
    let wanted = Arc::default();
    flag::register(SIGHUP, Arc::clone(&wanted))
        .map_err(|error| Error::failed(format!("cannot watch for signals: {error}")))?;
    Ok(wanted)
}

/// Notes the signals that end a server.
pub struct Stop {
    wanted: Arc<AtomicBool>,
    signal: Arc<AtomicUsize>,
}

impl Stop {
    /// Notes SIGTERM and SIGINT from now on. A second one ends the process at once.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn on_signals() -> Result<Self> {
        let stop = Stop {
            wanted: Arc::default(),
            signal: Arc::default(),
        };
        let failed = |error| Error::failed(format!("cannot watch for signals: {error}"));
        for signal in [SIGTERM, SIGINT] {
            // In this order: the first signal finds the flag unset, the second one set.
            flag::register_conditional_default(signal, stop.wanted.clone()).map_err(failed)?;
            flag::register_usize(signal, stop.signal.clone(), signal as usize).map_err(failed)?;
            flag::register(signal, stop.wanted.clone()).map_err(failed)?;
        }
        Ok(stop)
    }

    /// Set once a signal has come.
    pub fn wanted(&self) -> Arc<AtomicBool> {
        self.wanted.clone()
    }

    /// Ends the process by the signal that came, as its parent expects to see.
    ///
    /// # Errors
    /// If no signal came, or it could not be raised.
    pub fn finish(&self) -> Result<()> {
        let signal = self.signal.load(Ordering::Relaxed) as i32;
        if signal == 0 {
            return Ok(()); // It ended by itself.
        }
        low_level::emulate_default_handler(signal)
            .map_err(|error| Error::failed(format!("cannot end: {error}")))
    }
}
