//! The numbers of GGUF: tensor types with their block sizes, file types with their names.
//!
//! Source: ggml's `ggml_type` table and llama.cpp's `llama_ftype`.

/// A tensor's element type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TensorKind {
    /// ggml's number.
    pub id: u32,
    /// ggml's name.
    pub name: &'static str,
    /// Elements in one block.
    pub block_elements: u64,
    /// Bytes of one block.
    pub block_bytes: u64,
}

impl TensorKind {
    /// The type with this number, if ggml has one.
    pub fn from_id(id: u32) -> Option<Self> {
        KINDS
            .iter()
            .find(|kind| kind.0 == id)
            .map(|&(id, name, block_elements, block_bytes)| TensorKind {
                id,
                name,
                block_elements,
                block_bytes,
            })
    }
}

#[rustfmt::skip]
const KINDS: &[(u32, &str, u64, u64)] = &[
    (0, "F32", 1, 4), (1, "F16", 1, 2), (2, "Q4_0", 32, 18), (3, "Q4_1", 32, 20),
    (6, "Q5_0", 32, 22), (7, "Q5_1", 32, 24), (8, "Q8_0", 32, 34), (9, "Q8_1", 32, 36),
    (10, "Q2_K", 256, 84), (11, "Q3_K", 256, 110), (12, "Q4_K", 256, 144), (13, "Q5_K", 256, 176),
    (14, "Q6_K", 256, 210), (15, "Q8_K", 256, 292), (16, "IQ2_XXS", 256, 66), (17, "IQ2_XS", 256, 74),
    (18, "IQ3_XXS", 256, 98), (19, "IQ1_S", 256, 50), (20, "IQ4_NL", 32, 18), (21, "IQ3_S", 256, 110),
    (22, "IQ2_S", 256, 82), (23, "IQ4_XS", 256, 136), (24, "I8", 1, 1), (25, "I16", 1, 2),
    (26, "I32", 1, 4), (27, "I64", 1, 8), (28, "F64", 1, 8), (29, "IQ1_M", 256, 56), (30, "BF16", 1, 2),
    (34, "TQ1_0", 256, 54), (35, "TQ2_0", 256, 66), (39, "MXFP4", 32, 17), (40, "NVFP4", 64, 36),
    (41, "Q1_0", 128, 18), (42, "Q2_0", 64, 18),
];

/// The name of a `general.file_type` number; removed and unknown ones are `unknown`.
pub fn file_type_name(number: u64) -> &'static str {
    FILE_TYPES
        .iter()
        .find(|(known, _)| *known == number)
        .map_or("unknown", |(_, name)| name)
}

/// The number and full name of a file type by its name in any case; `Q4_K` is `Q4_K_M`, and so on.
pub fn file_type(name: &str) -> Option<(u64, &'static str)> {
    let name = name.to_uppercase();
    let medium = format!("{name}_M");
    let fits = |known: &&(u64, &'static str)| known.1 == name || known.1 == medium;
    FILE_TYPES.iter().find(fits).copied()
}

/// The names of all file types.
pub const FILE_TYPE_NAMES: &[&str] = &{
    let mut names = [""; FILE_TYPES.len()];
    let mut at = 0;
    while at < names.len() {
        names[at] = FILE_TYPES[at].1;
        at += 1;
    }
    names
};

#[rustfmt::skip]
const FILE_TYPES: &[(u64, &str)] = &[
    (0, "F32"), (1, "F16"), (2, "Q4_0"), (3, "Q4_1"), (7, "Q8_0"), (8, "Q5_0"), (9, "Q5_1"),
    (10, "Q2_K"), (11, "Q3_K_S"), (12, "Q3_K_M"), (13, "Q3_K_L"), (14, "Q4_K_S"), (15, "Q4_K_M"),
    (16, "Q5_K_S"), (17, "Q5_K_M"), (18, "Q6_K"), (19, "IQ2_XXS"), (20, "IQ2_XS"), (21, "Q2_K_S"),
    (22, "IQ3_XS"), (23, "IQ3_XXS"), (24, "IQ1_S"), (25, "IQ4_NL"), (26, "IQ3_S"), (27, "IQ3_M"),
    (28, "IQ2_S"), (29, "IQ2_M"), (30, "IQ4_XS"), (31, "IQ1_M"), (32, "BF16"), (36, "TQ1_0"),
    (37, "TQ2_0"), (38, "MXFP4_MOE"), (39, "NVFP4"), (40, "Q1_0"), (41, "Q2_0"),
];
