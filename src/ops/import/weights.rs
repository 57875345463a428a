//! Writes safetensors tensors into a GGUF: their order, types and row permutations.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use serde_json::Value as Json;

use super::family::Family;
use super::keys::Keys;
use super::names;
use crate::core::error::{Error, Result};
use crate::core::regular_file;
use crate::format::gguf::{ALIGNMENT, Writer};
use crate::format::safetensors::Tensor;

/// Elements converted at a time; a head whose rows must be reordered is one piece, whatever its size.
const PIECE: u64 = 1 << 20;

/// Safetensors files and their tensors.
pub struct Source {
    /// Paths of the files.
    pub paths: Vec<PathBuf>,
    /// Tensors by name.
    pub tensors: BTreeMap<String, Located>,
}

/// A tensor and the file that contains it.
#[derive(Debug, Clone)]
pub struct Located {
    /// Index into [`Source::paths`].
    pub file: usize,
    /// Name, type, shape and position in the file.
    pub tensor: Tensor,
}

impl Source {
    /// The target type of the weights: BF16 if any matrix is BF16, otherwise F16.
    pub fn float(&self) -> Float {
        let mut matrices = self.tensors.values().filter(|at| at.tensor.shape.len() > 1);
        if matrices.any(|at| at.tensor.dtype == "BF16") {
            Float::BF16
        } else {
            Float::F16
        }
    }
}

/// A floating-point type of tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Float {
    F32,
    F16,
    BF16,
}

impl Float {
    fn from_dtype(dtype: &str) -> Option<Self> {
        match dtype {
            "F32" => Some(Float::F32),
            "F16" => Some(Float::F16),
            "BF16" => Some(Float::BF16),
            _ => None,
        }
    }

    /// ggml's number of the type.
    fn kind(self) -> u32 {
        match self {
            Float::F32 => 0,
            Float::F16 => 1,
            Float::BF16 => 30,
        }
    }

    fn bytes(self) -> u64 {
        match self {
            Float::F32 => 4,
            Float::F16 | Float::BF16 => 2,
        }
    }
}

/// A tensor to write into the GGUF.
#[derive(Debug)]
pub struct Output {
    name: String,
    /// Dimensions, fastest first.
    shape: Vec<u64>,
    float: Float,
    data: Data,
    block: Option<u32>,
}

impl Output {
    fn size_bytes(&self) -> u64 {
        self.shape.iter().product::<u64>() * self.float.bytes()
    }
}

/// The source of a tensor's elements.
#[derive(Debug)]
enum Data {
    /// Computed here.
    Made(Vec<f32>),
    /// Read from these tensors, concatenated.
    Read {
        from: Vec<Located>,
        /// Number of heads whose rows are reordered from two halves to neighbours.
        heads: Option<u64>,
        /// Added to each element.
        plus: f32,
    },
}

/// Plans all tensors of a model, in the order of its layers.
///
/// # Errors
/// A text: a tensor is unknown, has no floating-point type, or does not fit the config.
pub fn plan(
    family: &Family,
    keys: &Keys,
    source: &Source,
    tokens: u64,
) -> Result<Vec<Output>, String> {
    let float = source.float();
    let mut outputs: BTreeMap<String, Output> = BTreeMap::new();
    for located in source.tensors.values() {
        let theirs = &located.tensor.name;
        let Some(place) = names::place(family, theirs)? else {
            continue;
        };
        if Float::from_dtype(&located.tensor.dtype).is_none() {
            let dtype = &located.tensor.dtype;
            return Err(format!(
                "the tensor {theirs} is of type {dtype}, not F32, F16 or BF16"
            ));
        }
        if let Some(expert) = place.expert {
            stack(&mut outputs, place, expert, located, float)?;
            continue;
        }
        let output = single(family, keys, place, located, float, tokens)?;
        if let Some(twice) = outputs.insert(output.name.clone(), output) {
            return Err(format!("two tensors map to {}", twice.name));
        }
    }
    let experts = keys.experts().unwrap_or(0);
    for output in outputs.values_mut() {
        if let (Data::Read { from, .. }, [.., count]) = (&output.data, &output.shape[..])
            && output.name.ends_with("_exps.weight")
            && (*count != experts || from.len() as u64 != experts)
        {
            return Err(format!(
                "some of the {experts} experts of {} are missing",
                output.name
            ));
        }
    }
    let mut outputs: Vec<Output> = outputs.into_values().collect();
    outputs.extend(rotations(family, keys)?);
    outputs.sort_by_key(|output| match output.block {
        Some(block) => u64::from(block) + 1,
        None if output.name.starts_with("output") => u64::MAX,
        None => 0,
    });
    Ok(outputs)
}

fn single(
    family: &Family,
    keys: &Keys,
    place: names::Place,
    located: &Located,
    float: Float,
    tokens: u64,
) -> Result<Output, String> {
    let mut shape: Vec<u64> = located.tensor.shape.iter().rev().copied().collect();
    if place.name == "token_embd.weight" || place.name == "output.weight" {
        let rows = shape.get(1).copied().unwrap_or(0);
        if rows < tokens {
            return Err(format!(
                "the tokenizer has {tokens} tokens, the weights have {rows}"
            ));
        }
        shape[1] = tokens; // Rows after the last token are padding.
    }
    let heads = match (family.rotates_neighbours, keys.heads()) {
        (true, Some((queries, keys))) => heads(&place.name, queries, keys),
        _ => None,
    };
    let rows = located.tensor.shape.first().copied().unwrap_or(0);
    if let Some(heads) = heads
        && !splits(rows, heads)
    {
        return Err(format!(
            "{} has {rows} rows for {heads} heads",
            located.tensor.name
        ));
    }
    let above = family.norms_above_one && place.name.ends_with("norm.weight");
    Ok(Output {
        float: float_of(&place.name, shape.len(), float),
        shape,
        data: Data::Read {
            from: vec![located.clone()],
            heads,
            plus: if above { 1.0 } else { 0.0 },
        },
        block: place.block,
        name: place.name,
    })
}

/// True if `rows` divides into `heads` heads of two halves each.
pub fn splits(rows: u64, heads: u64) -> bool {
    let halves = heads.checked_mul(2).filter(|halves| *halves > 0);
    halves.is_some_and(|halves| rows.is_multiple_of(halves))
}

/// The number of heads of a query or key tensor; `None` for other tensors.
pub fn heads(name: &str, queries: u64, keys: u64) -> Option<u64> {
    let part = name.rsplit('.').nth(1)?;
    match part {
        "attn_q" => Some(queries),
        "attn_k" => Some(keys),
        _ => None,
    }
}

/// The type of a tensor: small and sensitive ones stay F32.
fn float_of(name: &str, dimensions: usize, float: Float) -> Float {
    let exact = ["_norm.weight", "ffn_gate_inp.weight", ".bias"];
    let whole = ["position_embd.weight", "token_types.weight"];
    if dimensions <= 1 || exact.iter().any(|end| name.ends_with(end)) || whole.contains(&name) {
        Float::F32
    } else {
        float
    }
}

/// Adds an expert's tensor to the stack of its name.
fn stack(
    outputs: &mut BTreeMap<String, Output>,
    place: names::Place,
    expert: usize,
    located: &Located,
    float: Float,
) -> Result<(), String> {
    /// Limit on the experts of a layer.
    const EXPERTS_MAX: usize = 4096;
    let theirs = &located.tensor;
    let uneven = || {
        format!(
            "the tensor {} does not match the other experts",
            theirs.name
        )
    };
    let output = outputs.entry(place.name.clone()).or_insert_with(|| Output {
        name: place.name,
        shape: theirs.shape.iter().rev().copied().chain([0]).collect(),
        float,
        data: Data::Read {
            from: Vec::new(),
            heads: None,
            plus: 0.0,
        },
        block: place.block,
    });
    let (Data::Read { from, .. }, [.., count]) = (&mut output.data, &mut output.shape[..]) else {
        return Err(uneven());
    };
    let like = from
        .first()
        .is_none_or(|first| first.tensor.shape == theirs.shape);
    if !like || expert >= EXPERTS_MAX || theirs.shape.len() != 2 {
        return Err(uneven());
    }
    // Sorted by name, expert 10 comes before expert 2.
    let at = from.partition_point(|known| number(&known.tensor.name) < expert);
    from.insert(at, located.clone());
    *count = (*count).max(expert as u64 + 1);
    Ok(())
}

fn number(name: &str) -> usize {
    let rest = name.split_once(".experts.").map_or("", |(_, rest)| rest);
    let digits = rest.split('.').next().unwrap_or_default();
    digits.parse().unwrap_or(0)
}

/// Tensors with RoPE frequency factors.
fn rotations(family: &Family, keys: &Keys) -> Result<Vec<Output>, String> {
    let made = |name: &str, values: Vec<f32>| Output {
        name: name.into(),
        shape: vec![values.len() as u64],
        float: Float::F32,
        data: Data::Made(values),
        block: None,
    };
    if family.name == "llama" && keys.rope_kind() == Some("llama3") {
        let rotated = keys.rotated().ok_or("config.json has no head_dim")?;
        return Ok(vec![made("rope_freqs.weight", stretched(keys, rotated))]);
    }
    let mut outputs = Vec::new();
    if family.name == "phi3" {
        for (key, name) in [
            ("long_factor", "rope_factors_long.weight"),
            ("short_factor", "rope_factors_short.weight"),
        ] {
            if let Some(list) = keys.rope(key).and_then(Json::as_array) {
                let values = list.iter().filter_map(Json::as_f64);
                outputs.push(made(name, values.map(|value| value as f32).collect()));
            }
        }
    }
    Ok(outputs)
}

/// Llama 3.1's RoPE factors: low frequencies are scaled, high ones are not, and those between gradually.
fn stretched(keys: &Keys, rotated: u64) -> Vec<f32> {
    let number = |name: &str, missing: f64| {
        let found = keys.rope(name).and_then(Json::as_f64);
        found.unwrap_or(missing)
    };
    let base = keys.theta().unwrap_or(10_000.0);
    let (factor, low) = (number("factor", 8.0), number("low_freq_factor", 1.0));
    let high = number("high_freq_factor", 4.0);
    let context = number("original_max_position_embeddings", 8192.0);
    let factors = (0..rotated).step_by(2).map(|at| {
        let length = std::f64::consts::TAU * base.powf(at as f64 / rotated as f64);
        if length < context / high {
            1.0
        } else if length > context / low {
            factor
        } else {
            let smooth = (context / length - low) / (high - low);
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    });
    factors.map(|factor| factor as f32).collect()
}

/// Writes the GGUF: header, then tensors. `progress` gets the bytes written and their total.
///
/// # Errors
/// If a file cannot be read or written, or a tensor's length does not match its shape.
pub fn write(
    plan: &[Output],
    source: &Source,
    mut writer: Writer,
    target: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<()> {
    let mut total = 0;
    for output in plan {
        writer.tensor_entry(&output.name, &output.shape, output.float.kind(), total);
        total += output.size_bytes().next_multiple_of(ALIGNMENT);
    }
    let files = source.paths.iter().map(|path| regular_file::named(path));
    let mut files: Vec<File> = files.collect::<Result<_>>()?;
    let failed = |error| Error::io("write", target, error);
    let mut out = BufWriter::new(File::create(target).map_err(failed)?);
    out.write_all(&writer.bytes()).map_err(failed)?;
    let mut done = 0;
    for output in plan {
        let mut bytes = 0;
        each_piece(output, source, &mut files, &mut |piece| {
            bytes += piece.len() as u64;
            out.write_all(piece).map_err(failed)?;
            progress(done + bytes, total);
            Ok(())
        })?;
        if bytes != output.size_bytes() {
            return Err(Error::usage(format!(
                "{}: its numbers are not as many as its shape says",
                output.name
            )));
        }
        let gap = bytes.next_multiple_of(ALIGNMENT) - bytes;
        out.write_all(&vec![0; gap as usize]).map_err(failed)?;
        done += bytes + gap;
    }
    out.flush().map_err(failed)
}

/// Converts a tensor piece by piece and calls `put` with the bytes of each piece.
fn each_piece(
    output: &Output,
    source: &Source,
    files: &mut [File],
    put: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let (from, heads, plus) = match &output.data {
        Data::Made(values) => return put(&encode(values, output.float)),
        Data::Read { from, heads, plus } => (from, *heads, *plus),
    };
    let per_part = output.shape.iter().product::<u64>() / from.len().max(1) as u64;
    for located in from {
        let float = Float::from_dtype(&located.tensor.dtype).unwrap_or(Float::F32);
        let path = &source.paths[located.file];
        let unread = |error| Error::io("read", path, error);
        let file = &mut files[located.file];
        file.seek(SeekFrom::Start(located.tensor.start))
            .map_err(unread)?;
        let piece = match heads {
            Some(heads) => located.tensor.elements() / heads,
            None => PIECE,
        };
        let mut left = per_part;
        while left > 0 {
            let count = left.min(piece);
            let mut bytes = vec![0; (count * float.bytes()) as usize];
            file.read_exact(&mut bytes).map_err(unread)?;
            left -= count;
            if let Some(heads) = heads {
                let rows = located.tensor.shape[0] / heads;
                bytes = neighbours(&bytes, rows as usize);
            }
            if float == output.float && plus == 0.0 {
                put(&bytes)?;
                continue;
            }
            let mut values = decode(&bytes, float);
            values.iter_mut().for_each(|value| *value += plus);
            put(&encode(&values, output.float))?;
        }
    }
    Ok(())
}

/// Reorders a head's rows: each row of the second half follows its counterpart of the first.
fn neighbours(head: &[u8], rows: usize) -> Vec<u8> {
    let row = head.len() / rows.max(1);
    let half = rows / 2;
    let mut bytes = Vec::with_capacity(head.len());
    for at in 0..half {
        bytes.extend(&head[at * row..(at + 1) * row]);
        bytes.extend(&head[(at + half) * row..(at + half + 1) * row]);
    }
    bytes
}

fn decode(bytes: &[u8], float: Float) -> Vec<f32> {
    match float {
        Float::F32 => {
            let fours = bytes.chunks_exact(4);
            fours
                .map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]]))
                .collect()
        }
        Float::F16 => {
            let twos = bytes.chunks_exact(2);
            twos.map(|two| f16::from_le_bytes([two[0], two[1]]).to_f32())
                .collect()
        }
        Float::BF16 => {
            let twos = bytes.chunks_exact(2);
            twos.map(|two| bf16::from_le_bytes([two[0], two[1]]).to_f32())
                .collect()
        }
    }
}

fn encode(values: &[f32], float: Float) -> Vec<u8> {
    let values = values.iter();
    match float {
        Float::F32 => values.flat_map(|value| value.to_le_bytes()).collect(),
        Float::F16 => values
            .flat_map(|value| f16::from_f32(*value).to_le_bytes())
            .collect(),
        Float::BF16 => values
            .flat_map(|value| bf16::from_f32(*value).to_le_bytes())
            .collect(),
    }
}

/// An adapter's tensor, written as F32; `heads` is the number of heads whose rows are reordered.
pub fn low_rank(name: String, located: &Located, heads: Option<u64>) -> Output {
    Output {
        name,
        shape: located.tensor.shape.iter().rev().copied().collect(),
        float: Float::F32,
        data: Data::Read {
            from: vec![located.clone()],
            heads,
            plus: 0.0,
        },
        block: None,
    }
}

/// True if the tensor's type is F32, F16 or BF16.
pub fn is_float(located: &Located) -> bool {
    Float::from_dtype(&located.tensor.dtype).is_some()
}
