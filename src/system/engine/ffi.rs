//! The only file that calls llama.cpp's C API directly, for what llama-cpp-2 hides: the log callback, a
//! cancellable load that may skip repacking, abortable computations, fitting layers to a GPU, quantising,
//! and the bytes of a sequence's memory.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_void};
use std::path::Path;
use std::ptr;
use std::sync::OnceLock;

use llama_cpp_2::LlamaContextLoadError;
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::context::session::LlamaStateSeqFlags;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_sys_2 as sys;

use super::interrupt::Interrupt;
use super::log::Log;

/// The parameters of a load.
pub struct LoadParams<'a> {
    /// Layers on the GPU; `None`: as many as fit.
    pub gpu_layers: Option<i32>,
    /// The GPU to prefer.
    pub main_gpu: Option<i32>,
    /// Map the file; `None` lets llama.cpp choose.
    pub mmap: Option<bool>,
    /// Keep the weights in memory: never swap them out.
    pub lock: bool,
    /// Proportions of the model for each GPU; empty: as it fits.
    pub tensor_split: &'a [f32],
    /// Repack weights for this CPU.
    pub repack: bool,
    /// Cells of context that must fit beside the weights on a GPU.
    pub cells: u32,
    /// The caller strips accents: llama.cpp must not strip them again.
    pub strips_accents: bool,
}

/// A loaded model and how many of its layers went to a GPU.
pub struct Loaded {
    /// The model.
    pub model: LlamaModel,
    /// Layers on a GPU, the output layer counted.
    pub gpu_layers: u32,
    /// Tokens in a sliding window; 0 without one.
    pub window_tokens: u32,
    /// True if the model reads a prompt with an encoder.
    pub encodes: bool,
}

/// Sends llama.cpp's and ggml's log lines to `log` for the rest of the process, and their last message when
/// they abort it.
pub fn set_log(log: &'static Log) {
    unsafe extern "C" fn record(level: sys::ggml_log_level, text: *const c_char, log: *mut c_void) {
        if text.is_null() {
            return;
        }
        // SAFETY: llama.cpp hands over a NUL-terminated text that lives during this call, and
        // `log` is the `&'static Log` given below, which is `Sync`.
        let (text, log) = unsafe { (CStr::from_ptr(text), &*log.cast::<Log>()) };
        log.record(level, &text.to_string_lossy());
    }
    static LOG: OnceLock<&'static Log> = OnceLock::new();
    unsafe extern "C" fn last(text: *const c_char) {
        if let (Some(log), false) = (LOG.get(), text.is_null()) {
            // SAFETY: ggml hands over a NUL-terminated text that lives during this call.
            log.last(&unsafe { CStr::from_ptr(text) }.to_string_lossy());
        }
    }
    if LOG.set(log).is_ok() {
        // SAFETY: `last` matches the callback type and never unwinds.
        unsafe { sys::ggml_set_abort_callback(Some(last)) };
    }
    // SAFETY: `record` matches the callback type and never unwinds; the pointer is 'static.
    unsafe { sys::llama_log_set(Some(record), ptr::from_ref(log).cast_mut().cast()) };
}

/// Loads a model. `progress` gets 0..=1 and cancels the load by returning false.
/// Returns `None` if llama.cpp rejects the file, or if `progress` cancelled the load.
pub fn load(
    path: &Path,
    params: &LoadParams<'_>,
    progress: &mut dyn FnMut(f32) -> bool,
) -> Option<Loaded> {
    type Callback<'a> = &'a mut dyn FnMut(f32) -> bool;
    unsafe extern "C" fn report(fraction: f32, callback: *mut c_void) -> bool {
        // SAFETY: the pointer is to the `Callback` below, which outlives the load, and llama.cpp
        // calls back only from the loading thread.
        let callback = unsafe { &mut *callback.cast::<Callback>() };
        callback(fraction)
    }
    let path = CString::new(path.as_os_str().as_encoded_bytes()).ok()?;
    let mut progress: Callback = progress;
    let mut fit = Fit::default();
    // SAFETY: a plain getter of a plain struct.
    let mut c = unsafe { sys::llama_model_default_params() };
    c.use_extra_bufts = params.repack;
    let overrides = overrides(params.strips_accents);
    c.kv_overrides = overrides.as_ptr();
    c.load_mode = match (params.mmap, params.lock) {
        (None, false) => sys::LLAMA_LOAD_MODE_AUTO,
        (Some(true), false) => sys::LLAMA_LOAD_MODE_MMAP,
        (Some(false), false) => sys::LLAMA_LOAD_MODE_NONE,
        (Some(false), true) => sys::LLAMA_LOAD_MODE_MLOCK,
        (_, true) => sys::LLAMA_LOAD_MODE_MMAP_MLOCK,
    };
    let split = split(params.tensor_split);
    if !split.is_empty() {
        c.tensor_split = split.as_ptr();
    }
    if let Some(gpu) = params.main_gpu.filter(|gpu| *gpu >= 0) {
        c.main_gpu = gpu;
        c.split_mode = sys::LLAMA_SPLIT_MODE_NONE;
    }
    match params.gpu_layers {
        Some(layers) => c.n_gpu_layers = layers,
        None if has_gpu() && split.is_empty() => fit.apply(&path, &mut c, params.cells),
        None => {}
    }
    c.progress_callback = Some(report);
    c.progress_callback_user_data = ptr::from_mut(&mut progress).cast();
    // SAFETY: `path` is NUL-terminated; `c` points only into `fit`, `split`, `overrides` and `progress`,
    // which outlive the call, and llama.cpp keeps none of these pointers afterwards.
    let model = unsafe { sys::llama_model_load_from_file(path.as_ptr(), c) };
    let model = ptr::NonNull::new(model)?;
    // SAFETY: plain getters of a model that was just loaded.
    let (window, encodes) = unsafe {
        (
            sys::llama_model_n_swa(model.as_ptr()),
            sys::llama_model_has_encoder(model.as_ptr()),
        )
    };
    // SAFETY: LlamaModel is repr(transparent) over a non-null `llama_model` pointer that it frees
    // once (llama-cpp-2 is pinned to the release where this was checked).
    let model = unsafe { std::mem::transmute::<ptr::NonNull<sys::llama_model>, LlamaModel>(model) };
    let all_layers = model.n_layer() + 1;
    let gpu_layers = match (has_gpu(), u32::try_from(c.n_gpu_layers)) {
        (false, _) => 0,
        (true, Ok(layers)) => layers.min(all_layers),
        (true, Err(_)) => all_layers,
    };
    Some(Loaded {
        model,
        gpu_layers,
        window_tokens: u32::try_from(window).unwrap_or(0),
        encodes,
    })
}

/// Overrides of header values, ended by an empty one. Texts that arrive without accents keep all marks they
/// have: llama.cpp would mistake vowels for accents.
fn overrides(strips_accents: bool) -> [sys::llama_model_kv_override; 2] {
    let end = sys::llama_model_kv_override {
        tag: sys::LLAMA_KV_OVERRIDE_TYPE_BOOL,
        key: [0; 128],
        __bindgen_anon_1: sys::llama_model_kv_override__bindgen_ty_1 { val_i64: 0 },
    };
    let mut keep = end;
    if strips_accents {
        let key = b"tokenizer.ggml.normalizer.strip_accents";
        for (to, byte) in keep.key.iter_mut().zip(key) {
            *to = *byte as c_char;
        }
    }
    [keep, end]
}

/// Creates a context whose computations on the CPU stop once `interrupt` is due, with the status
/// [`INTERRUPTED`](super::interrupt::INTERRUPTED).
///
/// # Errors
/// If llama.cpp cannot create it.
pub fn new_context<'a>(
    backend: &LlamaBackend,
    model: &'a LlamaModel,
    mut params: LlamaContextParams,
    interrupt: &'a Interrupt,
) -> Result<LlamaContext<'a>, LlamaContextLoadError> {
    unsafe extern "C" fn is_due(interrupt: *mut c_void) -> bool {
        // SAFETY: the pointer is to the `Interrupt` below, which is `Sync` and outlives the context.
        unsafe { &*interrupt.cast::<Interrupt>() }.is_due()
    }
    const {
        assert!(size_of::<LlamaContextParams>() == size_of::<sys::llama_context_params>());
        assert!(align_of::<LlamaContextParams>() == align_of::<sys::llama_context_params>());
    }
    // SAFETY: LlamaContextParams has one field, a `llama_context_params`, and by its size nothing
    // before or behind it (llama-cpp-2 is pinned to the release where this was checked).
    let c = unsafe { &mut *ptr::from_mut(&mut params).cast::<sys::llama_context_params>() };
    c.abort_callback = Some(is_due);
    c.abort_callback_data = ptr::from_ref(interrupt).cast_mut().cast();
    model.new_context(backend, params)
}

/// Writes a copy of a model file with weights of another type; false if llama.cpp fails.
pub fn quantize(job: &Quantize) -> bool {
    let text = |path: &Path| CString::new(path.as_os_str().as_encoded_bytes());
    let (Ok(source), Ok(target)) = (text(job.source), text(job.target)) else {
        return false;
    };
    // SAFETY: a plain getter of a plain struct.
    let mut c = unsafe { sys::llama_model_quantize_default_params() };
    c.nthread = i32::try_from(job.threads).unwrap_or(0);
    c.ftype = job.file_type as sys::llama_ftype;
    c.allow_requantize = job.requantize;
    // SAFETY: both paths are NUL-terminated and `c` points at nothing; llama.cpp catches its own
    // exceptions and answers 0 when all is written.
    unsafe { sys::llama_model_quantize(source.as_ptr(), target.as_ptr(), &raw const c) == 0 }
}

fn flags(partial: bool) -> LlamaStateSeqFlags {
    if partial {
        LlamaStateSeqFlags::PARTIAL_ONLY
    } else {
        LlamaStateSeqFlags::empty()
    }
}

/// The size of a sequence's state in bytes; `partial` covers only what cannot be cut: recurrent memory and
/// sliding windows.
pub fn state_bytes(context: &LlamaContext, index: usize, partial: bool) -> usize {
    context.state_seq_get_size_ext(index as i32, flags(partial))
}

/// A copy of a sequence's memory; `None` if llama.cpp cannot provide it.
pub fn state(context: &LlamaContext, index: usize, partial: bool) -> Option<Vec<u8>> {
    let mut bytes = vec![0; state_bytes(context, index, partial)];
    // SAFETY: llama.cpp writes as many bytes as it has just reported.
    let count =
        unsafe { context.state_seq_get_data_ext(bytes.as_mut_ptr(), index as i32, flags(partial)) };
    (count > 0 && count == bytes.len()).then_some(bytes)
}

/// Restores a sequence's memory; false if llama.cpp rejects it.
pub fn set_state(context: &mut LlamaContext, index: usize, bytes: &[u8], partial: bool) -> bool {
    // SAFETY: the bytes are those that `state` got from a context of the same model and build:
    // they come from this process, or from a file whose checksum matches and whose key names both.
    // llama.cpp reads no further than their end and rejects what does not fit the context.
    unsafe { context.state_seq_set_data_ext(bytes, index as i32, flags(partial)) }
}

/// Proportions for as many devices as llama.cpp reads; empty if none were given.
fn split(parts: &[f32]) -> Vec<f32> {
    if parts.is_empty() {
        return Vec::new();
    }
    // SAFETY: a plain getter of a build constant.
    let devices = unsafe { sys::llama_max_devices() };
    let mut split = parts.to_vec();
    split.resize(devices, 0.0);
    split
}

/// True if this machine has a GPU that this build can use.
pub fn has_gpu() -> bool {
    // SAFETY: the registry of devices is filled when the backend starts and only read here.
    unsafe {
        (0..sys::ggml_backend_dev_count()).any(|index| {
            let kind = sys::ggml_backend_dev_type(sys::ggml_backend_dev_get(index));
            kind == sys::GGML_BACKEND_DEVICE_TYPE_GPU || kind == sys::GGML_BACKEND_DEVICE_TYPE_IGPU
        })
    }
}

/// Memory left free on each GPU beside weights and cache, as llama.cpp's own tools leave it.
const GPU_MARGIN_BYTES: usize = 1 << 30;
/// Fitting never shrinks the context below this many tokens.
const FIT_CONTEXT_MIN: u32 = 4096;

/// The buffers that `common_fit_params` writes into and the model parameters then point at.
#[derive(Default)]
struct Fit {
    tensor_split: Vec<f32>,
    overrides: Vec<sys::llama_model_tensor_buft_override>,
    margins: Vec<usize>,
}

impl Fit {
    /// Puts as many layers on the GPUs as fit beside a context of `cells`.
    fn apply(&mut self, path: &CStr, c: &mut sys::llama_model_params, cells: u32) {
        // SAFETY: both are plain getters of build constants.
        let (devices, overrides) = unsafe {
            (
                sys::llama_max_devices(),
                sys::llama_max_tensor_buft_overrides(),
            )
        };
        let none = sys::llama_model_tensor_buft_override {
            pattern: ptr::null(),
            buft: ptr::null_mut(),
        };
        self.tensor_split = vec![0.0; devices];
        self.overrides = vec![none; overrides + 1];
        self.margins = vec![GPU_MARGIN_BYTES; devices];
        // SAFETY: a plain getter of a plain struct.
        let mut context = unsafe { sys::llama_context_default_params() };
        context.n_ctx = cells;
        let before = *c;
        // SAFETY: every buffer has the length that llama.cpp asks for and outlives the call.
        let status = unsafe {
            sys::llama_rs_fit_params(
                path.as_ptr(),
                c,
                &raw mut context,
                self.tensor_split.as_mut_ptr(),
                self.overrides.as_mut_ptr(),
                self.margins.as_mut_ptr(),
                FIT_CONTEXT_MIN.min(cells),
                ptr::null(),
                sys::GGML_LOG_LEVEL_DEBUG,
            )
        };
        if status != 0 {
            *c = before; // Not fitted: llama.cpp's own default decides, and says why if it fails.
            return;
        }
        c.tensor_split = self.tensor_split.as_ptr();
        c.tensor_buft_overrides = self.overrides.as_ptr();
    }
}

/// A model file to quantise.
pub struct Quantize<'a> {
    /// The GGUF file.
    pub source: &'a Path,
    /// The path of the new file; an existing file is overwritten.
    pub target: &'a Path,
    /// llama.cpp's number of the file type.
    pub file_type: u32,
    /// Accept weights that are already quantised.
    pub requantize: bool,
    /// Threads to compute with.
    pub threads: usize,
}

/// Blocks of this size and larger go back to the system as soon as they are freed.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const LARGE_BLOCK_BYTES: libc::c_int = 2 << 20;

/// Has the C library give large blocks back as soon as they are freed. Otherwise it keeps up to twice the largest one that
/// was freed, in each of its arenas: 40 bodies of 20 MB left 144 MB in a server of 20.
pub fn keep_no_large_blocks() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: the function takes two numbers. A refused one leaves the library's own rule.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, LARGE_BLOCK_BYTES);
    }
}

/// Gives memory that was freed back to the system: the C library keeps what lies between parts in use.
pub fn return_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: the function takes no pointer and may be called from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
