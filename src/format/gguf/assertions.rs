//! The assertions of llama.cpp about a model, which would end the whole process. Read off its sources (the
//! pinned version); what it turns into an error itself is left to it.
//!
//! The rules for the width of heads hold only for the architectures named here. Others have layouts of their own.

use super::{Header, Tensor, Value};

/// Alignment of tensors in memory (ggml's TENSOR_ALIGNMENT).
const ALIGNMENT: u64 = 32;
/// Most experts (llama.cpp's LLAMA_MAX_EXPERTS).
const EXPERTS_MAX: u64 = 1024;
/// Largest context that fits its 32-bit numbers with a sign.
const CONTEXT_MAX: u64 = i32::MAX as u64;
/// Largest window of sliding attention: the cache rounds it up in 32 bits.
const WINDOW_MAX: u64 = 1 << 24;
/// Kinds of pooling, from none to rank, and the mark for one that is not given.
const POOLINGS: [u64; 6] = [0, 1, 2, 3, 4, u32::MAX as u64];

/// Types that no operation on weights has code for.
const UNUSABLE: [&str; 6] = ["Q8_1", "Q8_K", "I8", "I16", "I64", "F64"];
/// Tensors of indices, the only ones of type I32.
const INDICES: &str = "ffn_gate_tid2eid.weight";
/// Matrices that may have one row: they are multiplied and may have any type.
const MULTIPLIED: [&str; 3] = [
    "ffn_gate_inp_shexp.weight",
    "cls.output.weight",
    "cls.weight",
];
/// Ends of the names of tensors that are added or scaled with, whatever their shape.
const F32_ENDS: [&str; 3] = [".bias", ".scale", ".input_scale"];
/// The same for parts of names.
const F32_PARTS: [&str; 15] = [
    "norm",
    "rope_freqs",
    "rope_factors",
    "attn_sinks",
    "ssm_conv1d",
    "shortconv.conv",
    "time_mix_lerp_",
    "time_mix_first",
    "time_mix_decay.weight",
    "time_mix_ln",
    "channel_mix_lerp_",
    "token_types",
    "altup_correct_scale",
    "layer_output_scale",
    "exp_probs_b",
];
/// The same for a whole part between dots.
const F32_WORDS: [&str; 2] = ["ssm_a", "ssm_d"];

/// How many numbers of a head are rotated by their position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rotation {
    None,
    Part,
    Whole,
}

/// Architectures whose layers all attend with heads of one width; what they rotate; and whether their heads together are
/// as wide as an embedding.
const HEADS: [(&str, Rotation, bool); 24] = [
    ("llama", Rotation::Whole, false),
    ("mistral3", Rotation::Whole, false),
    ("qwen2", Rotation::Whole, true),
    ("qwen2moe", Rotation::Whole, true),
    ("qwen3", Rotation::Whole, false),
    ("qwen3moe", Rotation::Whole, false),
    ("gemma", Rotation::Part, false),
    ("gemma2", Rotation::Part, false),
    ("gemma3", Rotation::Part, false),
    ("gemma3n", Rotation::Part, false),
    ("phi2", Rotation::Part, true),
    ("phi3", Rotation::Part, true),
    ("phimoe", Rotation::Part, true),
    ("olmo", Rotation::Whole, true),
    ("olmo2", Rotation::Whole, true),
    ("olmoe", Rotation::Whole, true),
    ("starcoder2", Rotation::Whole, true),
    ("stablelm", Rotation::Part, true),
    ("command-r", Rotation::Part, true),
    ("falcon", Rotation::Whole, true),
    ("smollm3", Rotation::Whole, false),
    ("gpt-oss", Rotation::Part, false),
    ("granite", Rotation::Whole, false),
    ("bert", Rotation::None, true),
];

/// Checks the header of a model that is about to be loaded.
///
/// # Errors
/// The first problem, in one line.
pub fn check(header: &Header) -> Result<(), String> {
    check_tensors(header)?;
    check_numbers(header)?;
    check_experts(header)?;
    check_heads(header)
}

/// Checks the header of a LoRA adapter.
///
/// # Errors
/// The first problem, in one line.
pub fn check_adapter(header: &Header) -> Result<(), String> {
    for key in ["general.type", "general.architecture", "adapter.type"] {
        if header.text(key).is_none() {
            return Err(format!("{key} is not a text"));
        }
    }
    if !matches!(
        header.value("adapter.lora.alpha"),
        None | Some(Value::F32(_))
    ) {
        return Err("adapter.lora.alpha is not a 32-bit float".into());
    }
    for tensor in &header.tensors {
        check_type(tensor)?;
        if width(tensor) > 2 {
            return Err(format!("tensor {:.80} is no matrix", tensor.name));
        }
    }
    check_alignment(header)
}

fn check_tensors(header: &Header) -> Result<(), String> {
    for tensor in &header.tensors {
        check_type(tensor)?;
        if tensor.kind.name != "F32" && must_be_f32(tensor) {
            return Err(format!(
                "tensor {:.80} has the type {}, not F32",
                tensor.name, tensor.kind.name
            ));
        }
    }
    check_alignment(header)
}

fn check_alignment(header: &Header) -> Result<(), String> {
    let is_off = |tensor: &Tensor| {
        let start = header.data_offset.saturating_add(tensor.offset);
        !start.is_multiple_of(ALIGNMENT)
    };
    match header.tensors.iter().find(|tensor| is_off(tensor)) {
        Some(tensor) => Err(format!(
            "tensor {:.80} does not begin at a multiple of {ALIGNMENT} bytes",
            tensor.name
        )),
        None => Ok(()),
    }
}

fn check_type(tensor: &Tensor) -> Result<(), String> {
    let kind = tensor.kind.name;
    let is_misplaced = kind == "I32" && !tensor.name.ends_with(INDICES);
    if UNUSABLE.contains(&kind) || is_misplaced {
        let name = &tensor.name;
        return Err(format!(
            "tensor {name:.80} has the type {kind}, with which nothing is computed"
        ));
    }
    Ok(())
}

/// The number of dimensions, without ones at the end.
fn width(tensor: &Tensor) -> usize {
    let last = tensor.shape.iter().rposition(|size| *size != 1);
    last.map_or(0, |last| last + 1)
}

fn must_be_f32(tensor: &Tensor) -> bool {
    let name = tensor.name.as_str();
    (width(tensor) <= 1 && !MULTIPLIED.iter().any(|end| name.ends_with(end)))
        || F32_ENDS.iter().any(|end| name.ends_with(end))
        || F32_PARTS.iter().any(|part| name.contains(part))
        || F32_WORDS
            .iter()
            .any(|word| name.split('.').any(|part| part == *word))
}

fn check_numbers(header: &Header) -> Result<(), String> {
    let architecture = header.architecture();
    for (key, value) in &header.values {
        let Some(key) = key
            .strip_prefix(architecture)
            .and_then(|key| key.strip_prefix('.'))
        else {
            continue;
        };
        let number = match value {
            Value::F32(number) => f64::from(*number),
            Value::F64(number) => *number,
            _ => continue,
        };
        if !number.is_finite() || (key.ends_with("epsilon") && number < 0.0) {
            return Err(format!("{key} is {number}"));
        }
    }
    let ranges = [
        ("context_length", 1, CONTEXT_MAX),
        ("embedding_length", 1, CONTEXT_MAX),
        ("embedding_length_out", 0, CONTEXT_MAX),
        ("attention.sliding_window", 0, WINDOW_MAX),
    ];
    for (key, least, most) in ranges {
        in_range(header, key, least, most)?;
    }
    if let Some(layers) = header.arch_integer("block_count") {
        in_range(header, "nextn_predict_layers", 0, layers.saturating_sub(1))?;
    }
    if let Some(pooling) = header.arch_integer("pooling_type")
        && !POOLINGS.contains(&pooling)
    {
        return Err(format!("pooling_type is {pooling}"));
    }
    let scaling = header.text(&format!("{architecture}.rope.scaling.type"));
    let known = ["none", "linear", "yarn", "longrope"];
    match scaling.filter(|word| !known.contains(word)) {
        Some(word) => Err(format!("rope.scaling.type is {word:.40}")),
        None => Ok(()),
    }
}

/// Checks an integer of the architecture, if it is given and no array.
fn in_range(header: &Header, key: &str, least: u64, most: u64) -> Result<(), String> {
    let full = format!("{}.{key}", header.architecture());
    match header.value(&full) {
        Some(Value::Unsigned(number)) if (least..=most).contains(number) => Ok(()),
        Some(Value::Unsigned(number)) => Err(format!("{key} is {number}")),
        Some(Value::Signed(number)) => match u64::try_from(*number) {
            Ok(positive) if (least..=most).contains(&positive) => Ok(()),
            _ => Err(format!("{key} is {number}")),
        },
        _ => Ok(()),
    }
}

fn check_experts(header: &Header) -> Result<(), String> {
    let number = |key| header.arch_integer(key).unwrap_or(0);
    let (count, used) = (number("expert_count"), number("expert_used_count"));
    let (groups, used_groups) = (
        number("expert_group_count"),
        number("expert_group_used_count"),
    );
    let is_list = matches!(
        header.value(&format!("{}.expert_used_count", header.architecture())),
        Some(Value::Array(_))
    );
    let is_dense = header.architecture().starts_with("hunyuan") && count <= 1;
    if is_dense || is_list {
        return Ok(());
    }
    let fits = count <= EXPERTS_MAX
        && used <= count
        && (count == 0 || (used >= 1 && groups < count))
        && (count > 0 || groups == 0)
        && (groups <= 1 || (count.is_multiple_of(groups) && (1..groups).contains(&used_groups)));
    if fits {
        Ok(())
    } else {
        Err(format!(
            "it uses {used} of {count} experts in {groups} groups, {used_groups} of them used"
        ))
    }
}

fn check_heads(header: &Header) -> Result<(), String> {
    let architecture = header.architecture();
    let number = |key| header.arch_integer(key);
    // A list of one number for each layer is left to llama.cpp.
    let Some(heads) = number("attention.head_count") else {
        return Ok(());
    };
    let kv_heads = number("attention.head_count_kv").unwrap_or(heads);
    if kv_heads > 0 && !heads.is_multiple_of(kv_heads) {
        return Err(format!("{heads} heads do not share {kv_heads} evenly"));
    }
    let known = HEADS.iter().find(|(name, ..)| *name == architecture);
    let Some((_, rotation, fills)) = known else {
        return Ok(());
    };
    let embedding = number("embedding_length").unwrap_or(0);
    if number("embedding_length_out").is_some_and(|out| out != 0 && out != embedding) {
        return Err("embedding_length_out is not embedding_length".into());
    }
    if heads == 0 || kv_heads == 0 {
        return Err("it has no heads".into());
    }
    let key = number("attention.key_length").unwrap_or(embedding / heads);
    let value = number("attention.value_length").unwrap_or(embedding / heads);
    if key != value {
        return Err(format!("its heads have {key} keys and {value} values"));
    }
    if *fills && heads.checked_mul(key) != Some(embedding) {
        return Err(format!(
            "{heads} heads of {key} do not make an embedding of {embedding}"
        ));
    }
    let rotated = number("rope.dimension_count").unwrap_or(key);
    let fits = match rotation {
        Rotation::None => true,
        Rotation::Part => rotated >= 2 && rotated.is_multiple_of(2) && rotated <= key,
        Rotation::Whole => rotated >= 2 && rotated.is_multiple_of(2) && rotated == key,
    };
    if !fits {
        return Err(format!("it rotates {rotated} of {key} numbers of a head"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::gguf::TensorKind;

    /// A model that llama.cpp loads, as far as these rules go, with other values and one other tensor.
    fn model(values: &[(&str, Value)], tensor: (&str, &str, &[u64], u64)) -> Header {
        let defaults = [
            ("llama.block_count", Value::Unsigned(2)),
            ("llama.context_length", Value::Unsigned(4096)),
            ("llama.embedding_length", Value::Unsigned(64)),
            ("llama.attention.head_count", Value::Unsigned(4)),
            ("general.architecture", Value::Text("llama".into())),
        ];
        let given = |key: &str| values.iter().any(|(known, _)| *known == key);
        let kept = defaults.iter().filter(|(key, _)| !given(key));
        let values = kept.chain(values).cloned();
        let (name, kind, shape, offset) = tensor;
        let kind = (0..64)
            .filter_map(TensorKind::from_id)
            .find(|known| known.name == kind);
        Header {
            values: values
                .map(|(key, value)| (key.to_string(), value))
                .collect(),
            spans: Vec::new(),
            tensors: vec![Tensor {
                name: name.into(),
                kind: kind.unwrap(),
                shape: shape.to_vec(),
                offset,
                size_bytes: 0,
            }],
            data_offset: 64,
            file_bytes: 0,
        }
    }

    const PLAIN_TENSOR: (&str, &str, &[u64], u64) = ("blk.0.attn_q.weight", "Q4_K", &[256, 64], 0);

    #[test]
    fn real_models_pass() {
        check(&model(&[], PLAIN_TENSOR)).unwrap();
        let experts = [
            ("llama.expert_count", Value::Unsigned(8)),
            ("llama.expert_used_count", Value::Unsigned(2)),
            ("llama.attention.head_count_kv", Value::Unsigned(2)),
            ("llama.attention.layer_norm_rms_epsilon", Value::F32(0.0)),
            ("llama.pooling_type", Value::Unsigned(3)),
        ];
        check(&model(&experts, PLAIN_TENSOR)).unwrap();
        let gate = ("blk.0.ffn_gate_inp_shexp.weight", "F16", &[64][..], 0);
        check(&model(&[], gate)).unwrap();
        check(&model(
            &[],
            ("blk.0.ffn_gate_inp.weight", "F16", &[64, 8], 32),
        ))
        .unwrap();
    }

    #[test]
    fn tensors_that_end_the_process_are_refused() {
        for (tensor, why) in [
            (("blk.0.attn_norm.weight", "F16", &[64][..], 0), "not F32"),
            (("blk.0.attn_q.bias", "BF16", &[64], 0), "not F32"),
            (("blk.0.attn_q_norm.weight", "F16", &[64, 4], 0), "not F32"),
            (("blk.0.ssm_a", "F16", &[64, 4], 0), "not F32"),
            (
                ("blk.0.ffn_up.weight", "I8", &[64, 4], 0),
                "nothing is computed",
            ),
            (
                ("blk.0.attn_q.weight", "Q8_1", &[64, 4], 0),
                "nothing is computed",
            ),
            (
                ("blk.0.attn_q.weight", "I32", &[64, 4], 0),
                "nothing is computed",
            ),
            (
                ("blk.0.attn_q.weight", "F32", &[64, 4], 8),
                "multiple of 32",
            ),
        ] {
            let found = check(&model(&[], tensor)).unwrap_err();
            assert!(found.contains(why), "{found}");
        }
    }

    #[test]
    fn numbers_that_end_the_process_are_refused() {
        let whole = Value::Unsigned;
        for (key, value) in [
            ("llama.context_length", whole(u32::MAX.into())),
            ("llama.context_length", whole(0)),
            ("llama.attention.layer_norm_rms_epsilon", Value::F32(-1.0)),
            (
                "llama.attention.layer_norm_rms_epsilon",
                Value::F32(f32::NAN),
            ),
            ("llama.rope.freq_base", Value::F32(f32::INFINITY)),
            ("llama.pooling_type", whole(9)),
            ("llama.nextn_predict_layers", whole(2)),
            ("llama.rope.scaling.type", Value::Text("spiral".into())),
            ("llama.expert_used_count", whole(1)),
            ("llama.expert_count", whole(2000)),
            ("llama.attention.head_count", whole(0)),
            ("llama.attention.head_count_kv", whole(3)),
            ("llama.attention.value_length", whole(8)),
            ("llama.rope.dimension_count", whole(8)),
            ("llama.attention.sliding_window", whole(u32::MAX.into())),
        ] {
            let found = check(&model(&[(key, value)], PLAIN_TENSOR));
            assert!(found.is_err(), "{key}");
        }
    }

    #[test]
    fn adapters_are_matrices_of_known_types() {
        let text = |key| (key, Value::Text("lora".into()));
        let values = [text("general.type"), text("adapter.type")];
        let matrix = ("blk.0.attn_q.weight.lora_a", "F32", &[64, 4][..], 0);
        check_adapter(&model(&values, matrix)).unwrap();
        assert!(check_adapter(&model(&values[1..], matrix)).is_err());
        let alpha = [&values[..], &[("adapter.lora.alpha", Value::F64(1.0))]].concat();
        assert!(check_adapter(&model(&alpha, matrix)).is_err());
        let cube = ("blk.0.attn_q.weight.lora_a", "F32", &[64, 4, 2][..], 0);
        assert!(check_adapter(&model(&values, cube)).is_err());
    }
}
