//! Signals: SIGTERM and SIGINT shut a server down, SIGHUP makes it read its files again, and Ctrl-C in a
//! session stops only the answer. Everything else keeps the system's defaults, so that Ctrl-C ends a run
//! at once, even during a load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::{flag, low_level};

use crate::core::error::{Error, Result};

/// Records Ctrl-C, which in a session stops only the answer.
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Handles SIGINT from now on.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn on_signal() -> Result<Self> {
        let flag_set = Arc::default();
        flag::register(SIGINT, Arc::clone(&flag_set))
            .map_err(|error| Error::failed(format!("cannot watch for signals: {error}")))?;
        Ok(Interrupt(flag_set))
    }

    /// The flag that SIGINT sets.
    pub fn flag(&self) -> Arc<AtomicBool> {
        self.0.clone()
    }

    /// Clears the flag before the next answer.
    pub fn forget(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Handles SIGHUP from now on; it sets the returned flag, and the server reads its files again.
///
/// # Errors
/// If the system refuses.
pub fn on_hangup() -> Result<Arc<AtomicBool>> {
    let flag_set = Arc::default();
    flag::register(SIGHUP, Arc::clone(&flag_set))
        .map_err(|error| Error::failed(format!("cannot watch for signals: {error}")))?;
    Ok(flag_set)
}

/// Records the signals that stop a server.
pub struct Stop {
    flag_set: Arc<AtomicBool>,
    signal: Arc<AtomicUsize>,
}

impl Stop {
    /// Handles SIGTERM and SIGINT from now on. A second signal ends the process at once.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn on_signals() -> Result<Self> {
        let stop = Stop {
            flag_set: Arc::default(),
            signal: Arc::default(),
        };
        let failed = |error| Error::failed(format!("cannot watch for signals: {error}"));
        for signal in [SIGTERM, SIGINT] {
            // In this order: the first signal finds the flag unset, the second one set.
            flag::register_conditional_default(signal, stop.flag_set.clone()).map_err(failed)?;
            flag::register_usize(signal, stop.signal.clone(), signal as usize).map_err(failed)?;
            flag::register(signal, stop.flag_set.clone()).map_err(failed)?;
        }
        Ok(stop)
    }

    /// The flag that SIGTERM and SIGINT set.
    pub fn flag_set(&self) -> Arc<AtomicBool> {
        self.flag_set.clone()
    }

    /// Ends the process by the signal that was received, so that its parent sees it. Returns if no signal
    /// was received.
    ///
    /// # Errors
    /// If the signal cannot be raised.
    pub fn finish(&self) -> Result<()> {
        let signal = self.signal.load(Ordering::Relaxed) as i32;
        if signal == 0 {
            return Ok(()); // The server stopped by itself.
        }
        low_level::emulate_default_handler(signal)
            .map_err(|error| Error::failed(format!("cannot end by the signal: {error}")))
    }
}
