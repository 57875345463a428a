//! Well-known templates under llama.cpp's names: some GGUFs name a template instead of carrying one. For
//! a model without a template, the special tokens of its vocabulary show which one it was trained with.

/// A well-known template.
#[derive(Debug, PartialEq, Eq)]
pub struct Named {
    /// The name that llama.cpp uses.
    pub name: &'static str,
    /// The text of the template, in the language of Modelfiles.
    pub template: &'static str,
    /// Special tokens in the vocabulary of a model trained with it; empty if only plain text separates turns.
    special_tokens: &'static [&'static str],
    /// Stop sequences: the reference's list for the template.
    pub stops: &'static [&'static str],
}

/// Words in the names of instruction-tuned models; a base model may have the same special tokens.
const TUNED: &[&str] = &["instruct", "chat", "it", "assistant", "sft", "dpo"];

/// Returns the template under a name.
pub fn template(name: &str) -> Option<&'static str> {
    let found = NAMED.iter().find(|known| known.name == name);
    found.map(|known| known.template)
}

/// True if one of a model's names says that it is instruction-tuned.
pub fn is_instruction_tuned<'a>(names: impl IntoIterator<Item = &'a str>) -> bool {
    let mut words = names
        .into_iter()
        .flat_map(|name| name.split(|letter: char| !letter.is_alphanumeric()));
    words.any(|word| TUNED.iter().any(|taught| word.eq_ignore_ascii_case(taught)))
}

/// Returns the first template whose special tokens are all among these tokens.
pub fn detect<'a>(tokens: impl IntoIterator<Item = &'a str>) -> Option<&'static Named> {
    let mut missing: Vec<Vec<&str>> = NAMED
        .iter()
        .map(|known| known.special_tokens.to_vec())
        .collect();
    for token in tokens {
        if token.starts_with(['<', '[']) {
            for special_tokens in &mut missing {
                special_tokens.retain(|mark| *mark != token);
            }
        }
    }
    let mut found = NAMED.iter().zip(missing);
    let found =
        found.find(|(known, missing)| !known.special_tokens.is_empty() && missing.is_empty());
    found.map(|(known, _)| known)
}

const NAMED: &[Named] = &[
    Named {
        name: "chatml",
        template: "{{ range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n",
        special_tokens: &["<|im_start|>", "<|im_end|>"],
        stops: &["<|im_start|>", "<|im_end|>"],
    },
    Named {
        name: "llama3",
        template: "{{ range .Messages }}<|start_header_id|>{{ .Role }}<|end_header_id|>\n\n{{ .Content }}<|eot_id|>{{ end }}\
                   <|start_header_id|>assistant<|end_header_id|>\n\n",
        special_tokens: &["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        stops: &["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    },
    Named {
        name: "llama2",
        template: "[INST] {{ if .System }}<<SYS>>\n{{ .System }}\n<</SYS>>\n\n{{ end }}{{ .Prompt }} [/INST]{{ .Response }}</s>",
        special_tokens: &[],
        stops: &["[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"],
    },
    Named {
        name: "mistral-v1",
        template: " [INST] {{ if .System }}{{ .System }}\n\n{{ end }}{{ .Prompt }} [/INST]{{ .Response }}</s>",
        special_tokens: &[],
        stops: &["[INST]", "[/INST]"],
    },
    Named {
        name: "mistral-v7",
        template: "{{ if .System }}[SYSTEM_PROMPT] {{ .System }}[/SYSTEM_PROMPT]{{ end }}[INST] {{ .Prompt }}[/INST] {{ .Response }}</s>",
        special_tokens: &["[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[INST]", "[/INST]"],
        stops: &["[INST]", "[/INST]", "[SYSTEM_PROMPT]"],
    },
    Named {
        name: "mistral-v3",
        template: "[INST] {{ if .System }}{{ .System }}\n\n{{ end }}{{ .Prompt }}[/INST]{{ .Response }}</s>",
        special_tokens: &["[INST]", "[/INST]"],
        stops: &["[INST]", "[/INST]"],
    },
    Named {
        name: "gemma",
        template: "<start_of_turn>user\n{{ if .System }}{{ .System }}\n\n{{ end }}{{ .Prompt }}<end_of_turn>\n\
                   <start_of_turn>model\n{{ .Response }}<end_of_turn>\n",
        special_tokens: &["<start_of_turn>", "<end_of_turn>"],
        stops: &["<start_of_turn>", "<end_of_turn>"],
    },
    Named {
        name: "command-r",
        template: "{{ if .System }}<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>{{ .System }}<|END_OF_TURN_TOKEN|>{{ end }}\
                   <|START_OF_TURN_TOKEN|><|USER_TOKEN|>{{ .Prompt }}<|END_OF_TURN_TOKEN|>\
                   <|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{{ .Response }}<|END_OF_TURN_TOKEN|>",
        special_tokens: &[
            "<|START_OF_TURN_TOKEN|>",
            "<|END_OF_TURN_TOKEN|>",
            "<|CHATBOT_TOKEN|>",
        ],
        stops: &["<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>"],
    },
    Named {
        name: "deepseek3",
        template: "{{ if .System }}{{ .System }}\n\n{{ end }}<｜User｜>{{ .Prompt }}<｜Assistant｜>{{ .Response }}<｜end▁of▁sentence｜>",
        special_tokens: &["<｜User｜>", "<｜Assistant｜>"],
        stops: &["<｜User｜>", "<｜end▁of▁sentence｜>"],
    },
    Named {
        name: "phi3",
        template: "{{ range .Messages }}<|{{ .Role }}|>\n{{ .Content }}<|end|>\n{{ end }}<|assistant|>\n",
        special_tokens: &["<|user|>", "<|assistant|>", "<|end|>"],
        stops: &["<|end|>", "<|system|>", "<|user|>", "<|assistant|>"],
    },
    Named {
        name: "zephyr",
        template: "{{ range .Messages }}<|{{ .Role }}|>\n{{ .Content }}<|endoftext|>\n{{ end }}<|assistant|>\n",
        special_tokens: &["<|user|>", "<|assistant|>", "<|endoftext|>"],
        stops: &["<|system|>", "<|endoftext|>", "<|user|>", "<|assistant|>"],
    },
    Named {
        name: "vicuna",
        template: "{{ if .System }}{{ .System }}\n\n{{ end }}USER: {{ .Prompt }}\nASSISTANT: {{ .Response }}</s>\n",
        special_tokens: &[],
        stops: &["USER:", "ASSISTANT:"],
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_found_by_its_tokens() {
        let found = |tokens: &[&str]| detect(tokens.iter().copied()).map(|known| known.name);
        assert_eq!(
            found(&["a", "<|im_end|>", "b", "<|im_start|>"]),
            Some("chatml")
        );
        assert_eq!(found(&["<|im_end|>", "im_start"]), None);
        assert_eq!(found(&["[INST]", "[/INST]"]), Some("mistral-v3"));
        let new = ["[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"];
        assert_eq!(found(&new), Some("mistral-v7"));
        assert_eq!(
            found(&["<|assistant|>", "<|user|>", "<|endoftext|>", "<|end|>"]),
            Some("phi3")
        );
        assert_eq!(found(&[]), None);
        for known in NAMED
            .iter()
            .filter(|known| !known.special_tokens.is_empty())
        {
            assert_eq!(found(known.special_tokens), Some(known.name));
        }
    }

    #[test]
    fn names_show_whether_a_model_is_instruction_tuned() {
        for name in ["Llama-3-8B-Instruct", "gemma 2b it", "qwen:7b-chat-q4"] {
            assert!(is_instruction_tuned([name]), "{name}");
        }
        for name in ["Llama-3-8B", "git", "chatty", "italian"] {
            assert!(!is_instruction_tuned([name]), "{name}");
        }
    }
}
