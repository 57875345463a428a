//! Manual pages that are no command's: of files, of the API, and recipes.
//!
//! The words stand here; `man.rs` sets them. A [`Block::Run`] is run by a test.

/// A page.
pub struct Page {
    /// Its name, behind `puna-`.
    pub name: &'static str,
    /// Its section of the manual.
    pub section: u8,
    /// What it is about, in a few words.
    pub summary: &'static str,
    /// Its text, in order.
    pub blocks: &'static [Block],
}

/// A piece of a page.
pub enum Block {
    /// A heading.
    Head(&'static str),
    /// A paragraph.
    Text(&'static str),
    /// A word and what it means.
    Entry(&'static str, &'static str),
    /// Lines that are shown as they are.
    Show(&'static str),
    /// Lines of shell that work as they are, with the files that the page names.
    Run(&'static str),
    /// Every key of the configuration file.
    Keys,
}

use Block::{Entry, Head, Keys, Run, Show, Text};

/// All of them.
pub const PAGES: &[Page] = &[CONFIG, MODELFILE, SCRIPTING, API];

const CONFIG: Page = Page {
    name: "config",
    section: 5,
    summary: "puna's configuration file",
    blocks: &[
        Head("DESCRIPTION"),
        Text(
            "The file puna/config in the user's configuration folder (~/.config, or XDG_CONFIG_HOME) may hold settings, \
             one a line, as key = value. Lines that begin with # are comments. PUNA_CONFIG names another file, or none \
             if it is empty. There need not be one.",
        ),
        Text(
            "A flag of the command line wins over a variable of puna's, that over Ollama's, that over the file, and the \
             file over the default. puna config prints each setting that is in force and where it came from. An unknown \
             key is an error of every command.",
        ),
        Head("KEYS"),
        Keys,
        Head("EXAMPLE"),
        Show(
            "# models on the large disk, loaded for an hour\nmodels = /srv/models\nkeep_alive = 1h",
        ),
    ],
};

const MODELFILE: Page = Page {
    name: "modelfile",
    section: 5,
    summary: "what puna create makes a model of",
    blocks: &[
        Head("DESCRIPTION"),
        Text(
            "A Modelfile holds one instruction a line: a word in any case, a blank, and its value. # begins a comment \
             where an instruction could begin. A value in \" or \"\"\" may span lines; nothing within is escaped. The \
             order does not matter.",
        ),
        Head("INSTRUCTIONS"),
        Entry(
            "FROM",
            "What the model is made of: a GGUF file or a folder of safetensors, relative to the Modelfile, or a model of the store. The only one \
             that must be there. A file NAME-00001-of-00003.gguf stands for all its shards, which are joined into one \
             blob; further FROM lines may name them one by one, and a projector (kept with the model, but not used \
             yet).",
        ),
        Entry(
            "ADAPTER",
            "A LoRA adapter that goes with the weights: a GGUF file, or PEFT's folder of safetensors.",
        ),
        Entry("SYSTEM", "The system text."),
        Entry(
            "TEMPLATE",
            "A Go template that makes the prompts, in place of the one in the GGUF. puna render shows what it \
             makes. A model that brings none gets a well-known one if its vocabulary has the tokens of it and its name \
             says instruct, chat or it; otherwise it continues its prompt.",
        ),
        Entry(
            "PARAMETER name value",
            "An option of the API; stop may be given several times.",
        ),
        Entry(
            "MESSAGE role text",
            "A message before every conversation: system, user or assistant.",
        ),
        Entry("LICENSE", "A licence; may be given several times."),
        Entry("REQUIRES version", "The least version that runs the model."),
        Head("EXAMPLE"),
        Show(
            "FROM smol\nPARAMETER temperature 0.2\nSYSTEM \"\"\"\nAnswer in one sentence.\n\"\"\"\nMESSAGE user Hello\n\
             MESSAGE assistant Good day.",
        ),
        Run("printf 'FROM smol\\nSYSTEM Answer in one word.\\n' | puna create terse -f -"),
        Text("puna show MODEL --modelfile prints a Modelfile that makes the model again."),
    ],
};

const SCRIPTING: Page = Page {
    name: "scripting",
    section: 7,
    summary: "recipes for scripts, cron and pipes",
    blocks: &[
        Head("DESCRIPTION"),
        Text(
            "Standard output is the answer and nothing else; notes go to standard error; each kind of failure has its \
             own exit status, which puna(1) lists. The recipes take a model called smol, one for vectors called mini, \
             and the files that they name.",
        ),
        Head("PROMPTS"),
        Text("A file and a question; standard input comes first:"),
        Run("puna run smol - 'Summarise this in one sentence.' -n 60 < notes.txt"),
        Text("Only a part of a file that is too long, cut at whole tokens:"),
        Run("puna tokens smol --head 200 < notes.txt | puna run smol - 'Summarise this.' -n 60"),
        Text(
            "All of a text that is longer than the context: answers over its pieces, then one over those:",
        ),
        Run(
            "puna run smol --overflow=reduce --num-ctx 512 - 'What happens here?' -n 30 < notes.txt",
        ),
        Text("A loop keeps its own input, because words after the model are the whole prompt:"),
        Run("while read -r word; do puna run smol \"A rhyme for $word:\" -n 8; done < words.txt"),
        Text("A conversation over several calls:"),
        Run(
            "puna run smol --continue chat.jsonl 'My name is Anna.' -n 20\npuna run smol --continue chat.jsonl 'Who am I?' -n 20",
        ),
        Text("A conversation with one load, an answer for each line:"),
        Run("printf '%s\\n' 'My name is Anna.' 'Who am I?' | puna chat smol -n 20"),
        Text("The same as JSON, so that a script can run the tools that the model calls:"),
        Run(
            "echo '{\"role\":\"user\",\"content\":\"Hi\"}' | puna chat smol --jsonl -n 20 | grep '\"content\"'",
        ),
        Text("An answer that can be had again, and the check that it can:"),
        Run(
            "puna run smol 'A joke, please.' -n 20 --record joke.json\npuna replay joke.json && echo same",
        ),
        Head("DATA"),
        Text(
            "Fields out of a text; every token is chosen so that the schema holds, status 6 if it was cut:",
        ),
        Run("puna run smol --schema person.json -n 80 < letter.txt | grep name"),
        Text(
            "A decision: status 0 for the first choice, 1 for the second, 120 if unsure, 121 for a failure:",
        ),
        Run(
            "if puna choose smol -Q 'Is this mail spam?' yes no --status < letter.txt; then echo spam; else echo ham; fi",
        ),
        Text("Many records with one load; line N answers record N:"),
        Run("puna map smol -p 'Translate to French: {}' -n 20 < words.txt | paste words.txt -"),
        Text("The same, going on after a crash or a reboot:"),
        Run(
            "puna map smol -p 'A rhyme for {}:' -n 8 --resume rhymes.journal < words.txt > rhymes.txt",
        ),
        Text("A search by meaning:"),
        Run(
            "puna embed mini < words.txt > words.vectors\npuna nearest mini 'an animal' --top 2 < words.vectors | cut -f2",
        ),
        Text("The lines that answer a question best, by a model that ranks or one for vectors:"),
        Run("puna rerank mini 'Which of these can swim?' --top 1 < words.txt | cut -f2"),
        Head("CRON"),
        Text(
            "cron's bare environment is enough if HOME is set; -q keeps its mails empty. A failure is a line on standard \
             error, which cron sends.",
        ),
        Show(
            "30 6 * * * puna run -q smol - 'Summarise what went wrong.' -n 200 < /var/log/today.log",
        ),
        Text(
            "A job that never runs twice at once, takes little of the machine, ends in time, and computes its long \
             instructions only the first time (see puna-cache(1)):",
        ),
        Run(
            "puna run smol -s \"$(cat rules.txt)\" -n 20 --lock nightly --skip --nice 10 --timeout 5m --mem-max 2G < letter.txt",
        ),
        Text(
            "The same models on every machine: a listing is a lock file, and what is there already needs no network.",
        ),
        Run("puna ls | cut -f1,2 > models.lock && puna pull -q --locked"),
        Text("Models that are checked every week:"),
        Show("0 3 * * 0 puna verify -q"),
        Head("SERVERS"),
        Text(
            "run needs no server. One that is there answers at once, because its model is loaded already; run finds it \
             by its socket. As a user's service:",
        ),
        Show(
            "[Unit]\nDescription=puna\n\n[Service]\nExecStart=puna serve\nRestart=on-failure\n\n[Install]\n\
             WantedBy=default.target",
        ),
        Text(
            "Started by systemd with the first request, and gone when nobody asks any more; puna.socket, and puna.service \
             beside it:",
        ),
        Show(
            "[Socket]\nListenStream=%t/puna/puna.sock\nSocketMode=0600\n\n[Install]\nWantedBy=sockets.target",
        ),
        Show("[Service]\nExecStart=puna serve --linger 10m"),
        Text("The same without systemd: the first call leaves a server behind for the next ones."),
        Run("puna run --linger=2s smol 'Say hello' -n 8"),
        Text(
            "For others: keys, and a proxy that speaks TLS in front of the loopback address. With caddy, or in a server \
             of nginx; answers stream only if nothing on the way buffers them:",
        ),
        Show("puna serve --api-key-file ~/.config/puna/keys --access-log ~/puna.log"),
        Show(
            "llm.example.org {\n    reverse_proxy 127.0.0.1:11434 {\n        flush_interval -1\n    }\n}",
        ),
        Show(
            "location / {\n    proxy_pass http://127.0.0.1:11434;\n    proxy_set_header Host localhost;\n    \
             proxy_buffering off;\n    proxy_read_timeout 600s;\n    client_max_body_size 0;\n}",
        ),
        Text("Where something is wrong:"),
        Run("puna doctor | grep -v '\tok\t' || true"),
    ],
};

const API: Page = Page {
    name: "api",
    section: 7,
    summary: "what puna serve answers",
    blocks: &[
        Head("DESCRIPTION"),
        Text(
            "puna serve answers the native API of Ollama, so that its clients work unchanged, and the dialects of OpenAI \
             and Anthropic. Bodies are JSON. It listens on 127.0.0.1:11434 and on a Unix socket of the user's own.",
        ),
        Head("NATIVE"),
        Entry(
            "POST /api/chat, /api/generate",
            "Answers, as JSON records line by line, or whole with \"stream\": false.",
        ),
        Entry("POST /api/embed, /api/embeddings", "Vectors of texts."),
        Entry(
            "GET /api/tags, /api/ps, /api/version; POST /api/show",
            "Models, what is loaded, and who answers.",
        ),
        Entry(
            "POST /api/create, /api/copy, /api/pull, /api/push; DELETE /api/delete; HEAD and POST /api/blobs",
            "Changes of the store.",
        ),
        Text(
            "Ours beside the reference's fields: tool_choice, grammar (GBNF) and overflow (error, head, tail or middle) in \
             requests; prompt_truncated_count and context_shifted_count in the last record, where tokens were dropped.",
        ),
        Head("OPENAI"),
        Entry(
            "POST /v1/chat/completions, /v1/completions, /v1/embeddings",
            "As OpenAI's, streams included. Images are data URLs; n has one prompt computed for all answers.",
        ),
        Entry(
            "POST /v1/responses, /v1/responses/input_tokens",
            "Nothing is stored: previous_response_id is refused.",
        ),
        Entry(
            "GET /v1/models, /v1/models/NAME",
            "The models of the store.",
        ),
        Head("ANTHROPIC"),
        Entry(
            "POST /v1/messages, /v1/messages/count_tokens",
            "As Anthropic's, streams included.",
        ),
        Head("SMALL TOOLS"),
        Entry(
            "GET /health, /metrics",
            "Whether it lives; counters for Prometheus.",
        ),
        Entry(
            "POST /tokenize, /detokenize, /apply-template, /infill",
            "As llama.cpp's server, with \"model\".",
        ),
        Entry(
            "POST /v1/rerank, /api/rerank, /rerank",
            "query and documents in, indexes and scores out, the best first; top_n and return_documents as Jina's.",
        ),
        Head("ERRORS"),
        Text(
            "400 what is wrong with the request, 403 an origin or a right that is missing, 404 no such model, 413 a body \
             that is too large, 503 no room or too many that wait. A stream that breaks ends with an error in its \
             dialect.",
        ),
        Head("EXAMPLE"),
        Show(
            "curl -s localhost:11434/api/chat -d '{\"model\":\"smol\",\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}]}'",
        ),
    ],
};
