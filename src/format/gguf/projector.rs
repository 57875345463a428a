//! Extracts a projector for llama.cpp from a file that contains a vision part beside the text part.
//!
//! Pure. The facts come from Ollama's `llama/compat`; if the data would have to be recomputed, the
//! architecture is refused by name.

use std::io::{Read, Seek};

use super::plan::{Draft, Plan, Put};
use super::{Header, Value};

/// A layout whose vision part differs from llama.cpp's only in names.
struct Layout {
    architecture: &'static str,
    /// llama.cpp's name of the projector.
    projector: &'static str,
    /// Keys of the architecture that become keys of `clip.vision.`.
    keys: &'static [(&'static str, &'static str)],
    /// Values to set if the file lacks them.
    defaults: &'static [(&'static str, u32)],
    /// Parts of tensors' names; each is replaced once, in this order.
    names: &'static [(&'static str, &'static str)],
    /// Mean and standard deviation of the colours that the model was trained with.
    colours: [[f32; 3]; 2],
    /// The key of the activation function between layers.
    gate: &'static str,
    epsilon: f32,
}

const HALF: [[f32; 3]; 2] = [[0.5; 3]; 2];
/// CLIP's own values.
const CLIP: [[f32; 3]; 2] = [
    [0.481_454_66, 0.457_827_5, 0.408_210_73],
    [0.268_629_54, 0.261_302_6, 0.275_777_1],
];
/// Keys that most layouts call by their usual names.
const USUAL: [&str; 9] = [
    "block_count",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.layer_norm_epsilon",
    "image_size",
    "patch_size",
    "num_channels",
    "spatial_merge_size",
];

const LAYOUTS: &[Layout] = &[
    Layout {
        architecture: "gemma3",
        projector: "gemma3",
        keys: &[],
        defaults: &[],
        names: &[
            ("v.patch_embedding", "v.patch_embd"),
            ("v.position_embedding", "v.position_embd"),
            ("v.post_layernorm", "v.post_ln"),
            (".layer_norm1", ".ln1"),
            (".layer_norm2", ".ln2"),
            (".attn_output", ".attn_out"),
            // llama.cpp's own projectors of this family use these names.
            (".mlp.fc1", ".ffn_down"),
            (".mlp.fc2", ".ffn_up"),
            ("mm.mm_input_projection", "mm.input_projection"),
            ("mm.mm_soft_emb_norm", "mm.soft_emb_norm"),
        ],
        colours: HALF,
        gate: "use_gelu",
        epsilon: 1e-6,
    },
    Layout {
        architecture: "gemma4",
        projector: "gemma4v",
        keys: &[],
        defaults: &[("image_size", 224)],
        names: &[],
        colours: [[0.0; 3], [1.0; 3]],
        gate: "use_gelu",
        epsilon: 1e-6,
    },
    Layout {
        architecture: "llama4",
        projector: "llama4",
        keys: &[("layer_norm_epsilon", "attention.layer_norm_epsilon")],
        defaults: &[],
        names: &[
            ("v.vision_adapter.mlp.fc1", "mm.model.mlp.1"),
            ("v.vision_adapter.mlp.fc2", "mm.model.mlp.2"),
            ("mm.linear_1", "mm.model.fc"),
            ("v.positional_embedding_vlm", "v.position_embd.weight"),
            ("v.class_embedding", "v.class_embd"),
            ("v.layernorm_post", "v.post_ln"),
            ("v.layernorm_pre", "v.pre_ln"),
            ("v.patch_embedding", "v.patch_embd"),
            (".attn_output", ".attn_out"),
            (".attn_norm", ".ln1"),
            (".ffn_norm", ".ln2"),
            (".mlp.fc1", ".ffn_up"),
            (".mlp.fc2", ".ffn_down"),
        ],
        colours: HALF,
        gate: "use_gelu",
        epsilon: 1e-5,
    },
    Layout {
        architecture: "qwen25vl",
        projector: "qwen2.5vl_merger",
        keys: &[("window_size", "window_size")],
        defaults: &[("n_wa_pattern", 8), ("image_size", 560)],
        names: &[
            ("v.merger.ln_q", "v.post_ln"),
            ("v.merger.mlp.", "mm."),
            ("v.patch_embd_0.weight", "v.patch_embd.weight"),
            ("v.patch_embd_1.weight", "v.patch_embd.weight.1"),
        ],
        colours: CLIP,
        gate: "use_silu",
        epsilon: 1e-6,
    },
    Layout {
        architecture: "glmocr",
        projector: "glm4v",
        keys: &[
            ("intermediate_size", "feed_forward_length"),
            ("out_hidden_size", "projection_dim"),
            (
                "attention.layer_norm_rms_epsilon",
                "attention.layer_norm_epsilon",
            ),
            ("image_mean", "image_mean"),
            ("image_std", "image_std"),
        ],
        defaults: &[],
        names: &[
            ("v.patch_embd_0.weight", "v.patch_embd.weight"),
            ("v.patch_embd_1.weight", "v.patch_embd.weight.1"),
        ],
        colours: CLIP,
        gate: "use_silu",
        epsilon: 1e-5,
    },
    Layout {
        architecture: "deepseekocr",
        projector: "deepseekocr",
        keys: &[("head_count", "attention.head_count")],
        defaults: &[
            ("feed_forward_length", 64),
            ("projection_dim", 1280),
            ("projector.scale_factor", 1),
            ("window_size", 14),
        ],
        names: &[
            (".self_attn.out_proj", ".attn_out"),
            (".self_attn.qkv_proj", ".attn_qkv"),
            (".layer_norm1", ".ln1"),
            (".layer_norm2", ".ln2"),
            (".mlp.fc1", ".ffn_up"),
            (".mlp.fc2", ".ffn_down"),
            ("v.pre_layrnorm", "v.pre_ln"),
            (".attn.proj", ".attn.out"),
            (".attn.rel_pos_h", ".attn.pos_h.weight"),
            (".attn.rel_pos_w", ".attn.pos_w.weight"),
            (".norm1", ".pre_ln"),
            (".norm2", ".post_ln"),
            ("mm.layers", "mm.model.fc"),
            ("mm.image_newline", "v.image_newline"),
            ("mm.view_seperator", "v.view_seperator"),
        ],
        colours: HALF,
        gate: "use_gelu",
        epsilon: 1e-6,
    },
];

/// Returns the projector in a file; `None` if the file has no vision part.
///
/// # Errors
/// If the layout's data would have to be recomputed, or the file cannot be read.
pub fn plan(header: &Header, file: impl Read + Seek) -> Result<Option<Plan>, String> {
    let sees = |name: &str| {
        ["v.", "mm.", "s."]
            .iter()
            .any(|start| name.starts_with(start))
    };
    let mut tensors = header.tensors.iter();
    if header.architecture() == "clip" || !tensors.any(|tensor| tensor.name.starts_with("v.")) {
        return Ok(None);
    }
    let layouts = LAYOUTS.iter();
    let mut known = layouts.filter(|layout| layout.architecture == header.architecture());
    let Some(layout) = known.next() else {
        return Err(format!(
            "the vision part of {} would have to be recomputed: use another publisher's projector",
            header.architecture()
        ));
    };
    let mut draft = Draft::part(header, |name| sees(name) && !name.starts_with("mm.a."));
    draft.set("general.architecture", Put::Text("clip".into()));
    draft.set("general.type", Put::Text("mmproj".into()));
    draft.set("clip.has_vision_encoder", Put::Flag(true));
    draft.set("clip.projector_type", Put::Text(layout.projector.into()));
    draft.set(&format!("clip.{}", layout.gate), Put::Flag(true));
    draft.copy_value("embedding_length", "clip.vision.projection_dim");
    let usual = USUAL.iter().map(|key| (key, key));
    for (old, new) in usual.chain(layout.keys.iter().map(|(old, new)| (old, new))) {
        draft.copy_value(&format!("vision.{old}"), &format!("clip.vision.{new}"));
    }
    own_keys(&mut draft, file)?;
    for (key, number) in layout.defaults {
        draft.default_everywhere(&format!("clip.vision.{key}"), Put::Number(*number));
    }
    let epsilon = "clip.vision.attention.layer_norm_epsilon";
    draft.default_everywhere(epsilon, Put::Float(layout.epsilon));
    for (key, colours) in ["image_mean", "image_std"].iter().zip(layout.colours) {
        let key = format!("clip.vision.{key}");
        draft.default_everywhere(&key, Put::Floats(colours.to_vec()));
    }
    draft.rename_tensors(|name| {
        let named = match name.strip_prefix("s.") {
            Some("position_embd") => "v.sam.pos_embd.weight".to_string(),
            Some(rest) => format!("v.sam.{rest}"),
            None => name.to_string(),
        };
        let named = layout
            .names
            .iter()
            .fold(named, |named, (old, new)| named.replacen(old, new, 1));
        (named != name).then_some(named)
    });
    Ok(draft.finish())
}

/// Sets the keys that follow from others.
fn own_keys(draft: &mut Draft, file: impl Read + Seek) -> Result<(), String> {
    let header = draft.header;
    match header.architecture() {
        "llama4" => {
            let ratio = match header.value(&draft.key("vision.pixel_shuffle_ratio")) {
                Some(Value::F32(ratio)) if *ratio > 0.0 => *ratio,
                _ => 0.5,
            };
            let scale = (1.0 / ratio).round().max(1.0) as u32;
            draft.set("clip.vision.projector.scale_factor", Put::Number(scale));
            draft.set("clip.vision.projector_type", Put::Text("llama4".into()));
        }
        "qwen25vl" => {
            if let Some(width) = draft.size("v.blk.0.ffn_up.weight", 1) {
                let key = "clip.vision.feed_forward_length";
                draft.default_everywhere(key, Put::Number(width as u32));
            }
            // One block in every so many uses full attention.
            let whole = header.value(&draft.key("vision.fullatt_block_indexes"));
            if let Some(Value::Array(array)) = whole {
                let blocks = header.elements(file, array);
                let blocks = blocks.map_err(|error| error.to_string())?;
                if let Some(Value::Signed(first)) = blocks.first() {
                    let every = u32::try_from(first.saturating_add(1)).unwrap_or(0);
                    draft.set("clip.vision.n_wa_pattern", Put::Number(every));
                }
            }
        }
        "deepseekocr" => {
            for key in ["block_count", "embedding_length", "head_count"] {
                draft.copy_value(&format!("sam.{key}"), &format!("clip.vision.sam.{key}"));
            }
        }
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::format::gguf::{Writer, read};

    fn split_off(writer: &mut Writer, names: &[&str]) -> Header {
        for name in names {
            writer.tensor_f32(name, &[2, 3], &[0.0; 6]);
        }
        let bytes = writer.bytes();
        let old = read(Cursor::new(&bytes), bytes.len() as u64).unwrap();
        let plan = plan(&old, Cursor::new(&bytes)).unwrap().unwrap();
        let (mut new, runs) = plan.header(&old, Cursor::new(&bytes)).unwrap();
        let end = runs.iter().map(|run| run.target + run.bytes).max();
        new.resize(end.unwrap_or(0) as usize, 0);
        read(Cursor::new(&new), new.len() as u64).unwrap()
    }

    fn names(header: &Header) -> Vec<&str> {
        let tensors = header.tensors.iter();
        tensors.map(|tensor| tensor.name.as_str()).collect()
    }

    #[test]
    fn names_become_those_of_llama_cpp() {
        let mut writer = Writer::new("qwen25vl");
        writer.integers("qwen25vl.vision.fullatt_block_indexes", &[7, 15]);
        let old = [
            "token_embd.weight",
            "v.patch_embd_1.weight",
            "v.merger.mlp.0.bias",
            "v.blk.0.ffn_up.weight",
        ];
        let header = split_off(&mut writer, &old);
        let new = [
            "v.patch_embd.weight.1",
            "mm.0.bias",
            "v.blk.0.ffn_up.weight",
        ];
        assert_eq!(names(&header), new);
        assert_eq!(header.integer("clip.vision.n_wa_pattern"), Some(8));
        assert_eq!(header.integer("clip.vision.feed_forward_length"), Some(3));

        let mut writer = Writer::new("deepseekocr");
        writer.unsigned("deepseekocr.sam.head_count", 12);
        let old = [
            "s.position_embd",
            "s.blk.0.attn.rel_pos_h",
            "v.blk.0.layer_norm1.bias",
            "mm.layers.weight",
        ];
        let header = split_off(&mut writer, &old);
        let new = [
            "v.sam.pos_embd.weight",
            "v.sam.blk.0.attn.pos_h.weight",
            "v.blk.0.ln1.bias",
            "mm.model.fc.weight",
        ];
        assert_eq!(names(&header), new);
        assert_eq!(header.integer("clip.vision.sam.head_count"), Some(12));
    }
}
