//! Manual pages that do not belong to a command: configuration, Modelfile, recipes and the API.
//!
//! This file owns their text; `man.rs` formats it. A test runs every [`Block::Run`].

/// A manual page.
pub struct Page {
    /// The name after `puna-`.
    pub name: &'static str,
    /// The section of the manual: 5 or 7.
    pub section: u8,
    /// The subject in a few words, for the NAME section.
    pub summary: &'static str,
    /// The content, in order.
    pub blocks: &'static [Block],
}

/// A part of a page.
pub enum Block {
    /// A heading.
    Head(&'static str),
    /// A paragraph.
    Text(&'static str),
    /// A term and its definition.
    Entry(&'static str, &'static str),
    /// Lines that are printed verbatim.
    Show(&'static str),
    /// Shell lines that a test runs, with the files that the page names.
    Run(&'static str),
    /// Every key of the configuration file.
    Keys,
}

use Block::{Entry, Head, Keys, Run, Show, Text};

/// All pages that do not belong to a command.
pub const PAGES: &[Page] = &[CONFIG, MODELFILE, SCRIPTING, API];

const CONFIG: Page = Page {
    name: "config",
    section: 5,
    summary: "puna's configuration file",
    blocks: &[
        Head("DESCRIPTION"),
        Text(
            "The file puna/config in the user's configuration folder (~/.config, or XDG_CONFIG_HOME) contains \
             settings, one per line, as key = value. Lines that begin with # are comments. PUNA_CONFIG names another \
             file; if it is empty, no file is read. The file is optional.",
        ),
        Text(
            "From highest to lowest precedence: a flag of the command line, an environment variable of puna, one of \
             Ollama, the file, the default. puna config prints each setting in force and its origin. An unknown key \
             makes every command fail.",
        ),
        Head("KEYS"),
        Keys,
        Head("EXAMPLE"),
        Show(
            "# models on the large disk, loaded for an hour after use\nmodels = /srv/models\nkeep_alive = 1h",
        ),
    ],
};

const MODELFILE: Page = Page {
    name: "modelfile",
    section: 5,
    summary: "the file from which puna create creates a model",
    blocks: &[
        Head("DESCRIPTION"),
        Text(
            "A Modelfile has one instruction per line: a keyword in any case, a blank, and its value. A # at the \
             beginning of an instruction starts a comment. A value in \" or \"\"\" may span lines; there are no \
             escapes within. The order of instructions does not matter.",
        ),
        Head("INSTRUCTIONS"),
        Entry(
            "FROM",
            "The weights: a GGUF file or a folder of safetensors, relative to the Modelfile, or a model of the \
             store. This is the only required instruction. A file NAME-00001-of-00003.gguf stands for all its \
             shards, which are joined into one blob; more FROM lines may name them one by one, and a projector \
             (stored with the model, but not used yet).",
        ),
        Entry(
            "ADAPTER",
            "A LoRA adapter for the weights: a GGUF file, or a folder of safetensors from PEFT.",
        ),
        Entry("SYSTEM", "The system text."),
        Entry(
            "TEMPLATE",
            "A Go template that renders the prompts, in place of the one in the GGUF. puna render prints the \
             rendered prompt. A model without a template gets a well-known one if its vocabulary has that template's \
             tokens and its name contains instruct, chat or it; otherwise it continues its prompt.",
        ),
        Entry(
            "PARAMETER name value",
            "An API option; stop may be given several times.",
        ),
        Entry(
            "MESSAGE role text",
            "A message before every conversation; the role is system, user or assistant.",
        ),
        Entry("LICENSE", "A licence; may be given several times."),
        Entry(
            "REQUIRES version",
            "The lowest version that can run the model.",
        ),
        Head("EXAMPLE"),
        Show(
            "FROM smol\nPARAMETER temperature 0.2\nSYSTEM \"\"\"\nAnswer in one sentence.\n\"\"\"\nMESSAGE user Hello\n\
             MESSAGE assistant Good day.",
        ),
        Run("printf 'FROM smol\\nSYSTEM Answer in one word.\\n' | puna create terse -f -"),
        Text("puna show MODEL --modelfile prints a Modelfile that recreates the model."),
    ],
};

const SCRIPTING: Page = Page {
    name: "scripting",
    section: 7,
    summary: "recipes for scripts, cron and pipes",
    blocks: &[
        Head("DESCRIPTION"),
        Text(
            "Standard output is the answer and nothing else; notes go to standard error; each kind of failure has \
             its own exit status, which puna(1) lists. The recipes use a model called smol, an embedding model \
             called mini, and the files that they name.",
        ),
        Head("PROMPTS"),
        Text("Ask about a file; standard input comes first in the prompt:"),
        Run("puna run smol - 'Summarise this in one sentence.' -n 60 < notes.txt"),
        Text("Use the first part of a file that is too long, cut at a token:"),
        Run("puna tokens smol --head 200 < notes.txt | puna run smol - 'Summarise this.' -n 60"),
        Text(
            "Use all of a text that is longer than the context: answer over its pieces, then over those answers:",
        ),
        Run(
            "puna run smol --overflow=reduce --num-ctx 512 - 'What happens here?' -n 30 < notes.txt",
        ),
        Text("Run in a loop; with words after the model, run does not read the loop's input:"),
        Run("while read -r word; do puna run smol \"A rhyme for $word:\" -n 8; done < words.txt"),
        Text("Continue a conversation over several calls:"),
        Run(
            "puna run smol --continue chat.jsonl 'My name is Anna.' -n 20\npuna run smol --continue chat.jsonl 'Who am I?' -n 20",
        ),
        Text("Load the model once and answer each line of a conversation:"),
        Run("printf '%s\\n' 'My name is Anna.' 'Who am I?' | puna chat smol -n 20"),
        Text("Do the same in JSON, so that a script can run the tools that the model calls:"),
        Run(
            "echo '{\"role\":\"user\",\"content\":\"Hi\"}' | puna chat smol --jsonl -n 20 | grep '\"content\"'",
        ),
        Text("Record an answer, and check that it can be reproduced:"),
        Run(
            "puna run smol 'A joke, please.' -n 20 --record joke.json\npuna replay joke.json && echo same",
        ),
        Head("DATA"),
        Text(
            "Extract fields from a text; the answer always matches the schema, and the status is 6 if it was cut:",
        ),
        Run("puna run smol --schema person.json -n 80 < letter.txt | grep name"),
        Text(
            "Decide: status 0 for the first choice, 1 for the second, 120 if unsure, 121 for a failure:",
        ),
        Run(
            "if puna choose smol -Q 'Is this mail spam?' yes no --status < letter.txt; then echo spam; else echo ham; fi",
        ),
        Text("Answer many records with one load; line N answers record N:"),
        Run("puna map smol -p 'Translate to French: {}' -n 20 < words.txt | paste words.txt -"),
        Text("Do the same, and resume after a crash or a reboot:"),
        Run(
            "puna map smol -p 'A rhyme for {}:' -n 8 --resume rhymes.journal < words.txt > rhymes.txt",
        ),
        Text("Search by meaning:"),
        Run(
            "puna embed mini < words.txt > words.vectors\npuna nearest mini 'an animal' --top 2 < words.vectors | cut -f2",
        ),
        Text("Find the lines that answer a question best, with a reranking or an embedding model:"),
        Run("puna rerank mini 'Which of these can swim?' --top 1 < words.txt | cut -f2"),
        Head("CRON"),
        Text(
            "The environment of cron is enough if HOME is set. With -q a successful job sends no mail; a failure is a \
             line on standard error, which cron sends.",
        ),
        Show(
            "30 6 * * * puna run -q smol - 'Summarise what went wrong.' -n 200 < /var/log/today.log",
        ),
        Text(
            "A job that never runs twice at once, takes few resources, stops in time, and computes its long \
             instructions only the first time (see puna-cache(1)). --retry N would try again up to N times after 1, \
             2, 4 and more seconds, if network, server or memory failed before anything was printed:",
        ),
        Run(
            "puna run smol -s \"$(cat rules.txt)\" -n 20 --lock nightly --skip --nice 10 --timeout 5m --mem-max 2G < letter.txt",
        ),
        Text(
            "The same models on every machine: a listing serves as a lock file, and models that are in the store \
             already need no network:",
        ),
        Run("puna ls | cut -f1,2 > models.lock && puna pull -q --locked"),
        Text("A weekly check of all models:"),
        Show("0 3 * * 0 puna verify -q"),
        Head("SERVERS"),
        Text(
            "run does not need a server. If one runs, run finds it by its socket and starts to answer at once, because \
             the model is loaded already. As a systemd user service:",
        ),
        Show(
            "[Unit]\nDescription=puna\n\n[Service]\nExecStart=puna serve\nRestart=on-failure\n\n[Install]\n\
             WantedBy=default.target",
        ),
        Text(
            "Started by systemd on the first request, and stopped when idle, with a puna.socket and a puna.service:",
        ),
        Show(
            "[Socket]\nListenStream=%t/puna/puna.sock\nSocketMode=0600\n\n[Install]\nWantedBy=sockets.target",
        ),
        Show("[Service]\nExecStart=puna serve --linger 10m"),
        Text("The same without systemd: the first call starts a server for the next ones:"),
        Run("puna run --linger=2s smol 'Say hello' -n 8"),
        Text(
            "For other machines: API keys, and a TLS proxy in front of the loopback address, here with caddy or in a \
             server block of nginx; answers stream only if the proxy does not buffer them:",
        ),
        Show("puna serve --api-key-file ~/.config/puna/keys --access-log ~/puna.log"),
        Show(
            "llm.example.org {\n    reverse_proxy 127.0.0.1:11434 {\n        flush_interval -1\n    }\n}",
        ),
        Show(
            "location / {\n    proxy_pass http://127.0.0.1:11434;\n    proxy_set_header Host localhost;\n    \
             proxy_buffering off;\n    proxy_read_timeout 600s;\n    client_max_body_size 0;\n}",
        ),
        Text("Find out what is wrong:"),
        Run("puna doctor | grep -v '\tok\t' || true"),
    ],
};

const API: Page = Page {
    name: "api",
    section: 7,
    summary: "the HTTP API of puna serve",
    blocks: &[
        Head("DESCRIPTION"),
        Text(
            "puna serve implements the native API of Ollama, so that its clients work unchanged, and the APIs of \
             OpenAI and Anthropic. Bodies are JSON. It listens on 127.0.0.1:11434 and on a Unix socket of the \
             user.",
        ),
        Head("NATIVE"),
        Entry(
            "POST /api/chat, /api/generate",
            "Answers, as JSON records line by line, or as one record with \"stream\": false.",
        ),
        Entry(
            "POST /api/embed, /api/embeddings",
            "Embedding vectors of texts.",
        ),
        Entry(
            "GET /api/tags, /api/ps, /api/version; POST /api/show",
            "The models of the store, the loaded models, the server's version, and the details of one model.",
        ),
        Entry(
            "POST /api/create, /api/copy, /api/pull, /api/push; DELETE /api/delete; HEAD and POST /api/blobs",
            "Create, copy, pull, push and delete models, and upload blobs.",
        ),
        Text(
            "Fields that Ollama does not have: tool_choice, grammar (GBNF) and overflow (error, head, tail or \
             middle) in requests; prompt_truncated_count and context_shifted_count in the last record, if tokens \
             were dropped.",
        ),
        Head("OPENAI"),
        Entry(
            "POST /v1/chat/completions, /v1/completions, /v1/embeddings",
            "As in OpenAI's API, including streams. Images are data URLs; with n the prompt is computed once for all \
             answers.",
        ),
        Entry(
            "POST /v1/responses, /v1/responses/input_tokens",
            "As in OpenAI's API, but nothing is stored: previous_response_id is refused.",
        ),
        Entry(
            "GET /v1/models, /v1/models/NAME",
            "The models of the store.",
        ),
        Head("ANTHROPIC"),
        Entry(
            "POST /v1/messages, /v1/messages/count_tokens",
            "As in Anthropic's API, including streams.",
        ),
        Head("LLAMA.CPP AND MONITORING"),
        Entry(
            "GET /health, /metrics",
            "A health check; metrics for Prometheus.",
        ),
        Entry(
            "POST /tokenize, /detokenize, /apply-template, /infill",
            "As in llama.cpp's server; \"model\" names the model.",
        ),
        Entry(
            "POST /v1/rerank, /api/rerank, /rerank",
            "Scores documents for a query and returns indexes and scores, the best first; top_n and return_documents \
             as in Jina's API.",
        ),
        Head("ERRORS"),
        Text(
            "400 invalid request, 401 missing or unknown key, 403 origin or permission denied, 404 no such model, \
             413 body too large, 429 a key's limit exceeded, 503 not enough memory or queue full. A stream that \
             fails stops with an error in the format of its API.",
        ),
        Head("EXAMPLE"),
        Show(
            "curl -s localhost:11434/api/chat -d '{\"model\":\"smol\",\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}]}'",
        ),
    ],
};
