//! Compute devices: those that this build supports, and those that this machine has.

use llama_cpp_2::LlamaBackendDeviceType;

use super::Backend;

/// True if llama.cpp was built with a backend for GPUs.
pub const BUILT_FOR_GPU: bool = cfg!(any(
    feature = "cuda",
    feature = "metal",
    feature = "vulkan",
    feature = "rocm"
));

impl Backend {
    /// The devices that this build can compute on, as display text: `CPU (Intel Xeon)`.
    pub fn devices(&self) -> Vec<String> {
        let devices = llama_cpp_2::list_llama_ggml_backend_devices();
        devices
            .into_iter()
            .map(|device| format!("{} ({})", device.name, device.description))
            .collect()
    }

    /// Free memory of all GPUs in bytes; `None` without a GPU.
    pub fn gpu_free_bytes(&self) -> Option<u64> {
        let devices = llama_cpp_2::list_llama_ggml_backend_devices();
        let is_gpu = |kind| {
            let kinds = [
                LlamaBackendDeviceType::Gpu,
                LlamaBackendDeviceType::IntegratedGpu,
            ];
            kinds.contains(&kind)
        };
        let gpus = devices
            .iter()
            .filter(|device| is_gpu(device.device_type))
            .map(|device| device.memory_free as u64);
        gpus.reduce(u64::saturating_add)
    }
}
