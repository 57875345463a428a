//! Templates that some GGUFs name instead of carrying them, by llama.cpp's names for them.

/// The template under a name, in the language of Modelfiles.
pub fn template(name: &str) -> Option<&'static str> {
    let found = NAMED.iter().find(|(known, _)| *known == name);
    found.map(|(_, source)| *source)
}

const NAMED: &[(&str, &str)] = &[
    (
        "chatml",
        "{{ range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n",
    ),
    (
        "llama3",
        "{{ range .Messages }}<|start_header_id|>{{ .Role }}<|end_header_id|>\n\n{{ .Content }}<|eot_id|>{{ end }}\
         <|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    (
        "llama2",
        "[INST] {{ if .System }}<<SYS>>\n{{ .System }}\n<</SYS>>\n\n{{ end }}{{ .Prompt }} [/INST]{{ .Response }}</s>",
    ),
    (
        "mistral-v1",
        " [INST] {{ if .System }}{{ .System }}\n\n{{ end }}{{ .Prompt }} [/INST]{{ .Response }}</s>",
    ),
    (
        "mistral-v3",
        "[INST] {{ if .System }}{{ .System }}\n\n{{ end }}{{ .Prompt }}[/INST]{{ .Response }}</s>",
    ),
    (
        "gemma",
        "<start_of_turn>user\n{{ if .System }}{{ .System }}\n\n{{ end }}{{ .Prompt }}<end_of_turn>\n\
         <start_of_turn>model\n{{ .Response }}<end_of_turn>\n",
    ),
    (
        "phi3",
        "{{ range .Messages }}<|{{ .Role }}|>\n{{ .Content }}<|end|>\n{{ end }}<|assistant|>\n",
    ),
    (
        "zephyr",
        "{{ range .Messages }}<|{{ .Role }}|>\n{{ .Content }}<|endoftext|>\n{{ end }}<|assistant|>\n",
    ),
    (
        "vicuna",
        "{{ if .System }}{{ .System }}\n\n{{ end }}USER: {{ .Prompt }}\nASSISTANT: {{ .Response }}</s>\n",
    ),
];
