//! The terminal does not echo keys while an answer is printed, so that they do not get into it. Signals still work.

use std::io::stdin;

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

/// While this lives, standard input does not echo, if it is a terminal.
pub struct Silence(Option<Termios>);

impl Silence {
    /// Turns the echo off.
    pub fn new() -> Self {
        let before = tcgetattr(stdin()).ok();
        if let Some(before) = &before {
            let mut silent = before.clone();
            silent.local_modes -= LocalModes::ECHO;
            // A terminal that refuses goes on to echo.
            let _ = tcsetattr(stdin(), OptionalActions::Now, &silent);
        }
        Silence(before)
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // As above.
            let _ = tcsetattr(stdin(), OptionalActions::Now, before);
        }
    }
}
