//! A line on the terminal that tells what a command waits for, so that no wait is silent for more than a second.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::out::Out;
use crate::core::clock::words;
use crate::core::threads::spawn;
use crate::ops::turn::PromptProgress;

/// A shorter wait needs no explanation.
const SHOW_AFTER: Duration = Duration::from_millis(800);
/// Interval of later looks.
const LOOK: Duration = Duration::from_millis(250);

/// Shows the line until it is dropped.
pub struct Waiting(Option<(Sender<()>, JoinHandle<()>)>);

impl Waiting {
    /// Shows what `text` makes of the time so far, if standard error is a terminal.
    pub fn new(out: &Out, text: impl Fn(Duration) -> String + Send + 'static) -> Self {
        let line = out.status_line();
        if !line.is_shown() {
            return Waiting(None);
        }
        let (over, until) = channel::<()>();
        let showing = spawn(move || {
            let started = Instant::now();
            let mut pause = SHOW_AFTER;
            while until.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                line.show(text(started.elapsed()));
                pause = LOOK;
            }
            line.clear();
        });
        // Without a thread there is only no line.
        Waiting(showing.ok().map(|showing| (over, showing)))
    }

    /// Waits for the first token of an answer; the progress is unknown if a server computes it.
    pub fn for_answer(out: &Out, progress: Option<PromptProgress>) -> Self {
        Waiting::new(out, move |so_far| match &progress {
            Some(progress) => reading(progress.shares(), so_far),
            None => format!("waiting for the server, {}", words(so_far)),
        })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some((over, showing)) = self.0.take() {
            drop(over);
            // Its panic was printed and spoils only the line.
            let _ = showing.join();
        }
    }
}

/// The line for a prompt that is being computed: the share that is there, and the time for the rest.
fn reading((there, computed): (f64, f64), so_far: Duration) -> String {
    let percent = (there * 100.0) as u64;
    if computed > 0.0 && computed < 1.0 {
        let left = so_far.mul_f64((1.0 - computed) / computed);
        return format!("reading the prompt: {percent}%, {} left", words(left));
    }
    format!("reading the prompt: {percent}%, {}", words(so_far))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_is_that_of_what_is_computed() {
        let after = Duration::from_secs(10);
        for (shares, text) in [
            ((0.0, 0.0), "reading the prompt: 0%, 10 seconds"),
            ((0.6, 0.2), "reading the prompt: 60%, 40 seconds left"),
            ((1.0, 1.0), "reading the prompt: 100%, 10 seconds"),
        ] {
            assert_eq!(reading(shares, after), text);
        }
    }
}
