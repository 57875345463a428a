//! The engine: one loaded model and the thread that computes with it.
//!
//! Knows tokens and sampling; nothing of HTTP, JSON, names or the store. A [`Job`] goes in over a
//! bounded channel, its [`Event`]s come back over one of its own. Dropping the [`Answer`] cancels.

mod accents;
mod admit;
mod answer;
mod budget;
mod cache;
mod cells;
mod context;
mod devices;
mod embed;
mod ffi;
mod gbnf;
mod grammar;
mod interrupt;
mod likely;
mod line;
mod log;
pub mod memory;
mod parked;
pub mod prefix;
pub mod quantize;
mod sampler;
mod thread;
pub mod tune;
mod work;
mod worker;

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock, mpsc};
use std::time::Duration;

use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token_type::LlamaTokenAttr;

pub use answer::Answer;
pub use budget::Budget;
pub use devices::BUILT_FOR_GPU;
pub use embed::normalised;
pub use grammar::{Compiler, Compilers, Grammar, Guide, Marks, Text};
pub use log::{Level, Sink};
pub use sampler::Sampling;

use crate::error::{Class, Error, Result};
use crate::message::{Logprob, Reason};
use crate::special::Specials;
use log::Log;
use memory::Need;
use prefix::Prefixes;
use thread::Jobs;
use tune::Attention;

/// Jobs that may wait at the door of one engine; the pool bounds requests long before.
const JOBS_MAX: usize = 1024;
/// Events a slow listener may have pending before its job sits out.
const EVENTS_MAX: usize = 256;

/// llama.cpp itself, started once in a process.
pub struct Backend {
    inner: LlamaBackend,
    log: &'static Log,
}

impl Backend {
    /// Starts llama.cpp; its log goes to `sink` up to `level`.
    ///
    /// # Errors
    /// If it was started before.
    pub fn start(level: Level, sink: Sink) -> Result<Arc<Self>> {
        let log: &'static Log = Box::leak(Box::new(Log::new(level, sink)));
        ffi::set_log(log);
        #[cfg(feature = "portable")]
        load_variants();
        let inner = LlamaBackend::init()
            .map_err(|error| Error::failed(format!("cannot start llama.cpp: {error}")))?;
        Ok(Arc::new(Backend { inner, log }))
    }
}

/// Loads ggml's CPU variants from beside the binary, or from where the build left them.
#[cfg(feature = "portable")]
fn load_variants() {
    let program = std::env::current_exe().ok();
    let beside = program.and_then(|path| path.parent().map(PathBuf::from));
    match beside.filter(|folder| folder.join("libggml-cpu-x64.so").exists()) {
        Some(folder) => llama_cpp_2::llama_backend::load_backends_from_path(&folder),
        None => llama_cpp_2::llama_backend::load_backends(),
    }
}

/// How large a context to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Context {
    /// As much as the first job needs, and no more.
    FirstJob,
    /// For `sequences` answers at once of up to `tokens` each, sharing `cells`.
    Shared {
        /// Most tokens of one prompt and its answer.
        tokens: u32,
        /// Answers computed at once.
        sequences: u32,
        /// Cells of the cache, shared by all.
        cells: u32,
    },
    /// For texts that become vectors.
    Texts {
        /// Most tokens of one text.
        tokens: u32,
        /// Most tokens of one decode, at least as many.
        batch: u32,
    },
}

/// What to load and how.
#[derive(Debug, Clone)]
pub struct Spec {
    /// The GGUF file.
    pub path: PathBuf,
    /// Layers on the GPU; `None` as many as fit.
    pub gpu_layers: Option<i32>,
    /// The GPU to prefer.
    pub main_gpu: Option<i32>,
    /// Map the file; `None` lets llama.cpp choose.
    pub mmap: Option<bool>,
    /// Keep the weights in memory: never swap them out.
    pub lock: bool,
    /// Parts of the model for each GPU; empty: as they fit.
    pub tensor_split: Vec<f32>,
    /// A LoRA adapter's GGUF file, and how much of it to apply.
    pub adapter: Option<(PathBuf, f32)>,
    /// Its vocabulary knows no accents.
    pub strips_accents: bool,
    /// Threads to compute with.
    pub threads: usize,
    /// Tokens in one decode, at most.
    pub batch_tokens: usize,
    /// Attention and cache.
    pub attention: Attention,
    /// The context's size.
    pub context: Context,
    /// What weights and cells need, for a context sized by its first job.
    pub need: Need,
    /// Memory that the whole may take, in bytes.
    pub memory_bytes: u64,
    /// How long its load may stand still; `None` for ever.
    pub stall_max: Option<Duration>,
    /// Compute each answer as if it were alone: nothing that was computed before is used.
    pub deterministic: bool,
    /// Who keeps beginnings of prompts.
    pub prefixes: Option<Arc<dyn Prefixes>>,
    /// Most anonymous memory of the process, and how to read it, both in bytes.
    pub memory_max: Option<(u64, fn() -> u64)>,
}

/// What is known of a loaded model.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Context length the model was trained with, in tokens.
    pub trained_tokens: u32,
    /// Where it computes: `CPU`, or the GPU's name and layers.
    pub device: String,
    /// Layers on a GPU.
    pub gpu_layers: u32,
    /// All layers, the output layer counted.
    pub layers: u32,
    /// Tokens of the vocabulary.
    pub vocabulary: i32,
    /// Threads that compute.
    pub threads: usize,
    /// Attention and cache.
    pub attention: Attention,
    /// The context's size.
    pub context: Context,
    /// Tokens of prompts in one decode.
    pub slice_tokens: usize,
}

/// A loaded model. Dropping it waits for running jobs, then frees everything.
pub struct Engine {
    model: Arc<LlamaModel>,
    worker: Option<thread::Door>,
    facts: Facts,
    strips_accents: bool,
    specials: OnceLock<Specials>,
    compilers: Compilers,
}

/// One prompt to continue.
#[derive(Debug, Default)]
pub struct Job {
    /// Token ids of the prompt, at least one.
    pub prompt: Vec<i32>,
    /// Most tokens to generate.
    pub answer_tokens: usize,
    /// How to pick them.
    pub sampling: Sampling,
    /// Special tokens whose text belongs to the answer: marks of thinking and of calls. Sorted.
    pub visible: Vec<i32>,
    /// Tell how likely each token was, and so many of the likeliest at its place.
    pub likely: Option<usize>,
    /// What the answer must follow.
    pub guide: Option<Guide>,
    /// How long it may think.
    pub budget: Option<Budget>,
    /// Go on behind a token that ends answers.
    pub endless: bool,
    /// Where the context is full, keep so many tokens at its front, drop the older half of the rest
    /// and go on; `None`: the answer ends there.
    pub shift: Option<usize>,
    /// How long its listener may take no event before the job is given up; `None`: for ever.
    pub patience: Option<Duration>,
    /// Set by whoever wants the job to end early.
    pub cancel: Arc<AtomicBool>,
}

/// What happens to a job, in this order: `Admitted`, any number of `Token`, `End`; or `Failed`.
#[derive(Debug)]
pub enum Event {
    /// The prompt fits and its computation begins; so many of its tokens were in the cache.
    Admitted {
        /// Tokens that need no computation.
        cached_tokens: usize,
    },
    /// A token was generated. Its bytes may be a part of a character.
    Token {
        /// The token's id.
        id: i32,
        /// Its text.
        bytes: Vec<u8>,
        /// How likely it was, if that was asked for.
        likely: Option<Logprob>,
    },
    /// The answer is complete.
    End {
        /// Why.
        reason: Reason,
        /// Time spent from admission to the first token.
        prompt: Duration,
        /// Time spent from the first token on.
        answer: Duration,
        /// Tokens that were dropped to go on where the context was full.
        dropped_tokens: usize,
    },
    /// The job ended without an answer.
    Failed(Error),
}

impl Engine {
    /// Loads a model in a thread of its own, which then computes with it. `progress` gets 0..=1
    /// and ends the load by returning false.
    ///
    /// # Errors
    /// `Damaged` with llama.cpp's reason if it refuses the file, `Cancelled` if `progress` did.
    pub fn load(
        backend: &Arc<Backend>,
        spec: Spec,
        progress: &mut dyn FnMut(f32) -> bool,
    ) -> Result<Self> {
        let (threads, attention, context) = (spec.threads, spec.attention, spec.context);
        let strips_accents = spec.strips_accents;
        let (worker, loaded) = thread::start(backend.clone(), spec, progress)?;
        let model = loaded.model;
        let on_gpu = loaded.gpu_layers > 0;
        let facts = Facts {
            trained_tokens: model.n_ctx_train(),
            device: device_name(loaded.gpu_layers),
            gpu_layers: loaded.gpu_layers,
            layers: model.n_layer() + 1,
            vocabulary: model.n_vocab(),
            threads,
            attention,
            context,
            slice_tokens: tune::slice_tokens(context::multiplied(&model), threads, on_gpu),
        };
        Ok(Engine {
            model,
            worker: Some(worker),
            facts,
            strips_accents,
            specials: OnceLock::new(),
            compilers: Compilers::new(context != Context::FirstJob),
        })
    }

    /// False once its thread has ended, which it does by itself only after a panic.
    pub fn is_alive(&self) -> bool {
        self.worker
            .as_ref()
            .is_some_and(|worker| !worker.has_ended())
    }

    /// Leaves the weights to the end of the process, which frees them at once: piece by piece it takes
    /// 40 ms for 98 MB. The thread is still waited for when this is dropped: one that computes while
    /// the process ends crashes it.
    pub fn leave_weights(&self) {
        std::mem::forget(self.model.clone());
    }

    /// What is known of the model.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Turns text into token ids. `special` reads special tokens where their text stands;
    /// `begin` puts the model's begin token in front if the model wants one.
    pub fn tokens(&self, text: &str, begin: bool, special: bool) -> Vec<i32> {
        let text = match self.strips_accents {
            true => accents::unaccented(text).into(),
            false => Cow::from(text),
        };
        let tokens = self.model.vocab().tokenize(text.as_bytes(), begin, special);
        tokens.into_iter().map(|token| token.0).collect()
    }

    /// The text of the model's begin and end tokens, as chat templates name them.
    pub fn border_texts(&self) -> (String, String) {
        let vocab = self.model.vocab();
        let text = |token| {
            let text = vocab
                .text(token)
                .map(|text| text.to_string_lossy().into_owned());
            text.unwrap_or_default()
        };
        (text(vocab.bos()), text(vocab.eos()))
    }

    /// True if the model wants its begin token in front of every prompt.
    pub fn wants_begin(&self) -> bool {
        self.model.vocab().should_add_bos()
    }

    /// The tokens that are read only where special tokens are asked for. Walks the vocabulary
    /// once.
    ///
    /// # Errors
    /// If there are too many of them.
    pub fn specials(&self) -> Result<&Specials> {
        if let Some(known) = self.specials.get() {
            return Ok(known);
        }
        let vocab = self.model.vocab();
        let wanted = LlamaTokenAttr::Control | LlamaTokenAttr::Unknown;
        let special = vocab
            .tokens()
            .filter(|token| vocab.attr(*token).intersects(wanted));
        let texts = special.filter_map(|token| {
            let text = vocab.text(token)?.to_string_lossy().into_owned();
            (!text.is_empty()).then_some((text, token.0))
        });
        let made = Specials::new(texts)?;
        Ok(self.specials.get_or_init(|| made))
    }

    /// The model's tokens for filling a gap: before what precedes it, before what follows it, and
    /// before what goes into it.
    pub fn gap_tokens(&self) -> Option<[i32; 3]> {
        let vocab = self.model.vocab();
        let tokens = [vocab.fim_pre(), vocab.fim_suf(), vocab.fim_mid()].map(|token| token.0);
        tokens.iter().all(|id| *id >= 0).then_some(tokens)
    }

    /// True for a token that marks something and is no text.
    pub fn is_special(&self, id: i32) -> bool {
        let attributes = self.model.vocab().attr(LlamaToken(id));
        attributes.contains(LlamaTokenAttr::Control)
    }

    /// Compiles a grammar for this model's vocabulary.
    ///
    /// # Errors
    /// `Schema` with what is wrong in it.
    pub fn guide(&self, grammar: Grammar) -> Result<Guide> {
        Guide::new(&self.compilers, &self.model, grammar)
    }

    /// How many tokens of context the model was trained with.
    pub fn trained_tokens(&self) -> usize {
        self.facts.trained_tokens as usize
    }

    /// The text of some tokens, special ones included.
    pub fn text(&self, tokens: &[i32]) -> String {
        let vocab = self.model.vocab();
        let mut bytes = Vec::new();
        for id in tokens
            .iter()
            .filter(|id| (0..vocab.n_tokens()).contains(*id))
        {
            bytes.extend(vocab.token_to_piece(LlamaToken(*id), true, None));
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Hands in a job.
    ///
    /// # Errors
    /// `Busy` if too many wait already; `Failed` if the engine's thread has ended.
    pub fn submit(&self, job: Job) -> Result<Answer> {
        let Jobs::Answers(jobs) = self.jobs() else {
            return Err(Error::failed("the model turns text into vectors only"));
        };
        let (events, receiver) = mpsc::sync_channel(EVENTS_MAX);
        let cancel = job.cancel.clone();
        submit(jobs, worker::Submission { job, events })?;
        Ok(Answer {
            events: receiver,
            cancel,
        })
    }

    /// What a ranking model wants before a question, between it and a text, and behind that.
    pub fn pair_marks(&self) -> (Vec<i32>, Vec<i32>, Vec<i32>) {
        let vocab = self.model.vocab();
        let one = |wanted: bool, token: LlamaToken| -> Vec<i32> {
            (wanted && token.0 >= 0)
                .then_some(token.0)
                .into_iter()
                .collect()
        };
        let eos = match vocab.eos() {
            eos if eos.0 >= 0 => eos,
            _ => vocab.sep(),
        };
        let end = one(vocab.should_add_eos(), eos);
        let middle = [end.clone(), one(vocab.should_add_sep(), vocab.sep())].concat();
        (one(vocab.should_add_bos(), vocab.bos()), middle, end)
    }

    /// Turns texts, each as its tokens, into the model's vectors or scores, in the same order.
    ///
    /// # Errors
    /// `Busy` if too many wait already; `Cancelled`; what llama.cpp says, or that the model
    /// generates text instead.
    pub fn embed(&self, tokens: Vec<Vec<i32>>, cancel: Arc<AtomicBool>) -> Result<Vec<Vec<f32>>> {
        let Jobs::Texts(jobs) = self.jobs() else {
            return Err(Error::failed("the model generates text only"));
        };
        let (vectors, answer) = mpsc::sync_channel(1);
        submit(
            jobs,
            embed::Texts {
                tokens,
                cancel,
                vectors,
            },
        )?;
        answer.recv().unwrap_or_else(|_| Err(Error::cancelled()))
    }

    fn jobs(&self) -> &Jobs {
        &self.worker.as_ref().expect("only drop takes it").jobs
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(worker) = self.worker.take() {
            worker.close();
        }
    }
}

fn submit<T>(jobs: &mpsc::SyncSender<T>, job: T) -> Result<()> {
    jobs.try_send(job).map_err(|error| match error {
        mpsc::TrySendError::Full(_) => Error::plain(Class::Busy, "too many requests wait"),
        mpsc::TrySendError::Disconnected(_) => Error::failed("the engine stopped unexpectedly"),
    })
}

fn device_name(gpu_layers: u32) -> String {
    let devices = llama_cpp_2::list_llama_ggml_backend_devices();
    let is_gpu = |kind| {
        matches!(
            kind,
            llama_cpp_2::LlamaBackendDeviceType::Gpu
                | llama_cpp_2::LlamaBackendDeviceType::IntegratedGpu
        )
    };
    match devices
        .into_iter()
        .find(|device| gpu_layers > 0 && is_gpu(device.device_type))
    {
        Some(device) => device.name,
        None => "CPU".into(),
    }
}
