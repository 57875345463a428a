//! The engine: one loaded model and the thread that computes with it.
//!
//! Knows tokens and sampling, and nothing about HTTP, JSON, names or the store. A [`Job`] enters through a
//! bounded channel; its [`Event`]s return through a channel of its own. Dropping the [`Answer`] cancels it.

mod accents;
mod admission;
mod answer;
mod backend;
mod cache;
mod cells;
mod context;
mod devices;
mod drafts;
mod embed;
mod engine_thread;
mod ffi;
mod found;
mod gbnf;
mod grammar;
mod interrupt;
mod job;
pub mod kv;
mod log;
mod logprobs;
pub mod memory;
mod plan;
pub mod prefix;
pub mod quantize;
mod ready;
pub mod repack;
mod repetition;
mod restore;
mod running_job;
mod sampler;
mod saved_sequence;
mod sequence;
mod spec;
mod speculation;
mod thinking_budget;
pub mod tune;
mod worker;

pub use backend::Backend;
pub use job::{Event, Job};
pub use logprobs::Alternatives;
pub use spec::{Context, Facts, JOBS_MAX, Spec};

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, mpsc};

use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token_type::LlamaTokenAttr;

use crate::core::error::{Class, Error, Result};
use crate::core::special_tokens::Specials;
use engine_thread::Jobs;

pub use answer::Answer;
pub use devices::BUILT_FOR_GPU;
pub use embed::normalised;
pub use ffi::{keep_no_large_blocks, return_memory};
pub use grammar::{Compiler, Compilers, Grammar, Guide, Text, ThinkingTags};
pub use log::{Level, Sink};
pub use sampler::Sampling;
pub use thinking_budget::ThinkingBudget;

/// Events that may be pending for a slow reader before its job pauses.
const EVENTS_MAX: usize = 256;

/// A loaded model. Dropping it waits for running jobs, then frees everything.
pub struct Engine {
    model: Arc<LlamaModel>,
    worker: Option<engine_thread::Handle>,
    facts: Facts,
    strips_accents: bool,
    specials: OnceLock<Specials>,
    compilers: Compilers,
}

impl Engine {
    /// Loads a model in a thread of its own, which then computes with it. `progress` gets 0..=1
    /// and cancels the load by returning false.
    ///
    /// # Errors
    /// `Damaged` with llama.cpp's reason if it rejects the file, `Cancelled` if `progress` cancelled.
    pub fn load(
        backend: &Arc<Backend>,
        spec: Spec,
        progress: &mut dyn FnMut(f32) -> bool,
    ) -> Result<Self> {
        let (threads, attention, context) = (spec.threads, spec.attention, spec.context);
        let strips_accents = spec.strips_accents;
        let repacked = spec.repack && spec.need.repacked_bytes > 0;
        let (deterministic, batch_tokens) = (spec.deterministic, spec.batch_tokens);
        let (worker, loaded) = engine_thread::start(backend.clone(), spec, progress)?;
        let model = loaded.model;
        let (parameters, on_gpu) = (context::multiplied(&model), loaded.gpu_layers > 0);
        let slices = tune::Slices::new(parameters, threads, on_gpu, deterministic);
        let facts = Facts {
            trained_tokens: model.n_ctx_train(),
            device: device_name(loaded.gpu_layers),
            gpu_layers: loaded.gpu_layers,
            layers: model.n_layer() + 1,
            vocabulary: model.n_vocab(),
            threads,
            attention,
            context,
            repacked,
            slices: slices.within(batch_tokens),
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

    /// False once its thread has stopped, which happens by itself only after a panic.
    pub fn is_alive(&self) -> bool {
        self.worker
            .as_ref()
            .is_some_and(|worker| !worker.has_ended())
    }

    /// Leaves the weights to the end of the process, which frees them at once: freeing them piece by piece
    /// takes 40 ms for 98 MB. Dropping the engine still waits for its thread: one that computes while the
    /// process exits crashes it.
    pub fn leave_weights(&self) {
        std::mem::forget(self.model.clone());
    }

    /// Bytes of the sequences that are put aside for prompts that begin as they do.
    pub fn saved_bytes(&self) -> usize {
        let worker = self.worker.as_ref();
        worker.map_or(0, |worker| worker.saved_bytes.load(Ordering::Relaxed))
    }

    /// Facts about the model.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Tokenises a text. `special` reads special tokens where their text occurs; `begin` prepends the
    /// model's begin token if the model wants one.
    pub fn tokens(&self, text: &str, begin: bool, special: bool) -> Vec<i32> {
        let text = if self.strips_accents {
            accents::unaccented(text).into()
        } else {
            Cow::from(text)
        };
        let tokens = self.model.vocab().tokenize(text.as_bytes(), begin, special);
        tokens.into_iter().map(|token| token.0).collect()
    }

    /// The text of the model's begin and end tokens, as chat templates name them.
    pub fn border_texts(&self) -> (String, String) {
        let vocab = self.model.vocab();
        let text = |token: LlamaToken| {
            // A vocabulary without such a token has a negative number in its place.
            if token.0 < 0 {
                return String::new();
            }
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

    /// The tokens that are read only with `special` set. Walks the vocabulary once.
    ///
    /// # Errors
    /// If there are too many for the automaton.
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

    /// The model's fill-in-the-middle tokens: prefix, suffix and middle; `None` unless it has all three.
    pub fn gap_tokens(&self) -> Option<[i32; 3]> {
        let vocab = self.model.vocab();
        let tokens = [vocab.fim_pre(), vocab.fim_suf(), vocab.fim_mid()].map(|token| token.0);
        tokens.iter().all(|id| *id >= 0).then_some(tokens)
    }

    /// True for a control token, which is not text.
    pub fn is_special(&self, id: i32) -> bool {
        let attributes = self.model.vocab().attr(LlamaToken(id));
        attributes.contains(LlamaTokenAttr::Control)
    }

    /// Compiles a grammar for this model's vocabulary.
    ///
    /// # Errors
    /// `Schema` with the mistake in it.
    pub fn guide(&self, grammar: Grammar) -> Result<Guide> {
        Guide::new(&self.compilers, &self.model, grammar)
    }

    /// The context length that the model was trained with, in tokens.
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

    /// Submits a job.
    ///
    /// # Errors
    /// `Busy` if too many are waiting already; `Failed` if the engine's thread has stopped.
    pub fn submit(&self, job: Job) -> Result<Answer> {
        let Jobs::Answers(jobs) = self.jobs() else {
            return Err(Error::failed(
                "the model is an embedding model; it cannot generate text",
            ));
        };
        let (events, receiver) = mpsc::sync_channel(EVENTS_MAX);
        let cancel = job.cancel.clone();
        submit(
            jobs,
            job::Submission {
                request: job,
                events,
            },
        )?;
        Ok(Answer::new(receiver, cancel))
    }

    /// The tokens that a reranking model expects before a question, between question and text, and after
    /// the text.
    pub fn pair_separators(&self) -> (Vec<i32>, Vec<i32>, Vec<i32>) {
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
    /// `Busy` if too many are waiting already; `Cancelled`; llama.cpp's error; or if the model generates
    /// text instead.
    pub fn embed(&self, tokens: Vec<Vec<i32>>, cancel: Arc<AtomicBool>) -> Result<Vec<Vec<f32>>> {
        let Jobs::Texts(jobs) = self.jobs() else {
            return Err(Error::failed(
                "the model is not an embedding model; it only generates text",
            ));
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
        mpsc::TrySendError::Full(_) => Error::plain(Class::Busy, "too many requests are waiting"),
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
