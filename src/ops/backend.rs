//! Runs turns: with a model in this process, or at a server.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::model::{self, Model};
use super::pool::{Policy, Pool, Progress};
use super::turn::{self, PromptProgress, Request, Turn};
use crate::core::duration::KeepAlive;
use crate::core::error::{Class, Error, Result};
use crate::core::message::{Delta, Reason};
use crate::core::threads::spawn;
use crate::core::turn::{OutputConstraint, Overflow, ToolChoice, TurnRequest};
use crate::format::wire::native::decode::{self, Body};
use crate::format::wire::native::encode::{ChatRecord, GenerateRecord};
use crate::system::client::{Client, Records};
use crate::system::config::Config;
use crate::system::engine::{Level, Sink};
use crate::system::store::Store;

/// Interval at which an answer from a server checks for cancellation.
const LOOK: Duration = Duration::from_millis(50);
/// Deltas of a server's answer that may wait to be taken.
const WAITING_MAX: usize = 16;

/// Where turns run.
pub enum Backend {
    /// In this process.
    Local(Box<Local>),
    /// At a server.
    Remote(Arc<Client>),
}

/// A model that runs in this process.
pub struct Local {
    pool: Pool,
    model: Arc<Model>,
    /// True if the model stays loaded between turns, whatever they say.
    stays: bool,
    level: Level,
}

impl Local {
    /// A model that is open already, with the engines of this pool.
    pub fn new(pool: Pool, model: Arc<Model>) -> Self {
        Local {
            pool,
            model,
            stays: false,
            level: Level::Off,
        }
    }

    /// Finds the model in the store; the first answer loads it. With [`Policy::Session`] it stays loaded.
    ///
    /// # Errors
    /// If the model's name or file is wrong.
    pub fn open(
        operand: &str,
        store: &Store,
        config: &Config,
        policy: Policy,
        log: (Level, Sink),
    ) -> Result<Self> {
        Ok(Local {
            model: Arc::new(model::open(store, operand)?),
            stays: policy == Policy::Session,
            level: log.0,
            pool: Pool::new(config.clone(), policy, log),
        })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// How much of llama.cpp's log is printed.
    pub fn level(&self) -> Level {
        self.level
    }

    /// The engines.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Starts a turn; returns once the engine has accepted its prompt.
    ///
    /// # Errors
    /// If the model cannot be loaded or the request is invalid.
    pub fn start(
        &self,
        mut turn: TurnRequest,
        cancel: &Arc<AtomicBool>,
        started: Instant,
        progress: Progress,
    ) -> Result<Turn> {
        if self.stays {
            turn.keep_alive = Some(KeepAlive::Forever);
        }
        let request = Request::new(&self.model, turn, cancel.clone(), started)?;
        turn::start(&self.pool, request, progress)
    }
}

impl Backend {
    /// The model; unknown at a server.
    pub fn model(&self) -> Option<&Model> {
        match self {
            Backend::Local(local) => Some(local.model()),
            Backend::Remote(_) => None,
        }
    }

    /// Starts a turn. A model in this process has then accepted the prompt; a server's errors come with the
    /// first delta. The answer ends with `Cancelled` soon after `cancel` is set.
    ///
    /// # Errors
    /// As [`Local::start`]; `Usage` for what only puna's own server can do.
    pub fn start(
        &self,
        turn: TurnRequest,
        cancel: &Arc<AtomicBool>,
        started: Instant,
        progress: Progress,
    ) -> Result<Answer> {
        match self {
            Backend::Local(local) => {
                let turn = local.start(turn, cancel, started, progress)?;
                Ok(Answer::Local(Box::new(turn)))
            }
            Backend::Remote(client) => {
                Ok(Answer::Remote(Remote::start(client.clone(), turn, cancel)))
            }
        }
    }
}

/// An answer under way: an iterator over its deltas. Dropping it cancels the rest.
pub enum Answer {
    /// From a model in this process.
    Local(Box<Turn>),
    /// From a server.
    Remote(Remote),
}

impl Answer {
    /// How the conversation was changed to fit the template; unknown for a server.
    pub fn notes(&self) -> &[&'static str] {
        match self {
            Answer::Local(turn) => turn.notes(),
            Answer::Remote(_) => &[],
        }
    }

    /// How much of the prompt is computed; unknown for a server.
    pub fn prompt_progress(&self) -> Option<PromptProgress> {
        match self {
            Answer::Local(turn) => Some(turn.prompt_progress()),
            Answer::Remote(_) => None,
        }
    }

    /// True if the processor is known to have its own copy of the weights.
    pub fn copies_weights(&self) -> bool {
        matches!(self, Answer::Local(turn) if turn.copies_weights())
    }

    /// The device that computes; unknown for a server.
    pub fn device(&self) -> Option<String> {
        match self {
            Answer::Local(turn) => Some(turn.device()),
            Answer::Remote(_) => None,
        }
    }
}

impl Iterator for Answer {
    type Item = Result<Delta>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Answer::Local(turn) => turn.next(),
            Answer::Remote(remote) => remote.next(),
        }
    }
}

/// An answer from a server. A thread reads it, so that cancelling does not wait for a silent server.
pub struct Remote {
    deltas: Receiver<Result<Delta>>,
    cancel: Arc<AtomicBool>,
    constraint: OutputConstraint,
    /// The text so far: the constraint is checked again, because not every server enforces it.
    constrained: String,
    done: bool,
}

impl Remote {
    fn start(client: Arc<Client>, turn: TurnRequest, cancel: &Arc<AtomicBool>) -> Self {
        let (sender, deltas) = sync_channel(WAITING_MAX);
        let constraint = turn.constraint.clone();
        let not_started = sender.clone();
        let reading = spawn(move || {
            if let Err(error) = read(&client, &turn, &sender) {
                // A failed send means that the answer was dropped.
                let _ = sender.send(Err(error));
            }
        });
        if let Err(error) = reading {
            // The channel has room: nothing was sent yet.
            let _ = not_started.send(Err(error));
        }
        Remote {
            deltas,
            cancel: cancel.clone(),
            constraint,
            constrained: String::new(),
            done: false,
        }
    }

    /// The next delta, or `Cancelled`.
    fn receive(&self) -> Result<Delta> {
        loop {
            if self.cancel.load(Ordering::Relaxed) {
                return Err(Error::cancelled());
            }
            match self.deltas.recv_timeout(LOOK) {
                Ok(delta) => return delta,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    let text = "the server closed the connection before the answer was complete";
                    return Err(Error::plain(Class::Network, text));
                }
            }
        }
    }
}

impl Iterator for Remote {
    type Item = Result<Delta>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let delta = self.receive().and_then(|delta| {
            match &delta {
                Delta::Text(more) if self.constraint != OutputConstraint::None => {
                    self.constrained.push_str(more);
                }
                Delta::Finish(finish) => {
                    self.done = true;
                    if finish.reason == Reason::Stop {
                        turn::check(&self.constraint, &self.constrained)?;
                    }
                }
                _ => {}
            }
            Ok(delta)
        });
        self.done |= delta.is_err();
        Some(delta)
    }
}

/// The prompt that a server would compute for a turn, and the number of tokens dropped to make it fit.
///
/// # Errors
/// `Usage` for what only puna's own server can do; the server's error.
pub fn rendered(client: &Client, turn: &TurnRequest) -> Result<(String, usize)> {
    check_features(client, turn)?;
    let debug_info = match decode::body(turn) {
        Body::Generate(mut body) => {
            (body.common.render_only, body.common.stream) = (true, Some(false));
            let record: GenerateRecord = client.ask("/api/generate", &body)?;
            record.debug_info
        }
        Body::Chat(mut body) => {
            (body.common.render_only, body.common.stream) = (true, Some(false));
            let record: ChatRecord = client.ask("/api/chat", &body)?;
            record.debug_info
        }
    };
    let rendered = debug_info.map(|info| {
        let truncated = info.prompt_truncated_count as usize;
        (info.rendered_template, truncated)
    });
    rendered.ok_or_else(|| {
        let text = format!("the server at {} renders no prompts", client.address());
        Error::usage(text)
    })
}

/// Refuses a turn with features that the server would ignore.
fn check_features(client: &Client, turn: &TurnRequest) -> Result<()> {
    let grammar = matches!(turn.constraint, OutputConstraint::Grammar(_));
    let keeps = matches!(turn.overflow, Overflow::Keep(_));
    for (given, what) in [
        (grammar, "--grammar"),
        (turn.tool_choice != ToolChoice::Auto, "--tool-choice"),
        (keeps, "--overflow"),
    ] {
        if given {
            client.must_be_puna(what)?;
        }
    }
    Ok(())
}

/// Sends the turn to the server and passes on the deltas of its answer.
fn read(client: &Client, turn: &TurnRequest, sender: &SyncSender<Result<Delta>>) -> Result<()> {
    check_features(client, turn)?;
    match decode::body(turn) {
        Body::Generate(body) => records(
            client,
            "/api/generate",
            &body,
            GenerateRecord::deltas,
            sender,
        ),
        Body::Chat(body) => records(client, "/api/chat", &body, ChatRecord::deltas, sender),
    }
}

fn records<R: DeserializeOwned>(
    client: &Client,
    path: &str,
    body: &impl Serialize,
    deltas: fn(R) -> Vec<Delta>,
    sender: &SyncSender<Result<Delta>>,
) -> Result<()> {
    let records: Records<R> = client.post(path, body)?;
    for record in records {
        for delta in deltas(record?) {
            sender.send(Ok(delta)).map_err(|_| Error::cancelled())?;
        }
    }
    Ok(())
}
