//! The reference's conformance cases by number: cases of a single request are in
//! `data/conformance.tsv`, the others here.

use serde_json::{Value as Json, json};

use crate::engine::minilm::minilm;
use crate::format::templates::data;
use crate::support::{Answer, Sandbox, Server, gemma};

/// Cases with several requests, tested below and in `scheduling.rs`.
const HERE: &[usize] = &[
    18, 27, 30, 31, 32, 44, 48, 49, 52, 57, 58, 59, 60, 61, 62, 63, 67, 71, 72, 73, 74, 82, 89, 90,
    91, 92, 93, 94, 96, 97,
];
/// Cases that tests in other files cover.
const ELSEWHERE: &[(usize, &str)] = &[
    (84, "pull::the_apis_records_come_in_order"),
    (85, "pull::the_apis_records_come_in_order"),
    (86, "faults::bytes_of_another_digest_are_discarded"),
    (87, "pull::the_apis_records_come_in_order"),
    (
        88,
        "load::a_load_that_fails_leaves_nothing_and_a_busy_server_says_so",
    ),
];
/// Cases with deliberately different behaviour, and why.
const OTHERWISE: &[(usize, &str)] = &[
    (
        20,
        "a name that nobody gave this machine is refused on every address: pages of others may be bound to it",
    ),
    (
        64,
        "there is no child process to kill: the engine is a thread of the server",
    ),
    (
        95,
        "as case 64: no child process can exit; the error gives llama.cpp's own reason",
    ),
];

/// A store with the models that the cases use.
pub fn sandbox() -> Sandbox {
    let sandbox = Sandbox::with_smol();
    sandbox.create("emb", &format!("FROM {}\n", minilm().display()));
    sandbox.create("gemma", &format!("FROM {}\n", gemma().display()));
    sandbox.create(
        "smol-sys",
        "FROM smol\nSYSTEM SYS\nPARAMETER temperature 0.5\nPARAMETER stop foo\nPARAMETER stop bar\n\
         PARAMETER num_ctx 2048\nPARAMETER seed 42\nLICENSE MIT\nLICENSE Apache\n\
         MESSAGE user hi\nMESSAGE assistant hello\n",
    );
    for (name, template) in [
        ("fim-tpl", "[pre]{{ .Prompt }}[suf]{{ .Suffix }}[mid]"),
        (
            "think-tpl",
            "{{ range .Messages }}{{ if eq .Role \"user\" }}<|im_start|>user\n{{ .Content }}<|im_end|>\n\
             {{ else }}<|im_start|>assistant\n{{ if .Thinking }}<think>{{ .Thinking }}</think>{{ end }}{{ .Content }}\
             <|im_end|>\n{{ end }}{{ end }}<|im_start|>assistant\n{{ if $.Think }}<think>{{ end }}",
        ),
        (
            "tool-tpl",
            "{{ range .Messages }}{{ if eq .Role \"user\" }}<|im_start|>user\n{{ .Content }}{{ json $.Tools }}<|im_end|>\n\
             {{ else }}<|im_start|>assistant\n{{ .Content }}{{ range .ToolCalls }}\
             <tool_call>{\"name\": \"{{ .Function.Name }}\", \"arguments\": {{ .Function.Arguments }}}</tool_call>{{ end }}\
             <|im_end|>\n{{ end }}{{ end }}<|im_start|>assistant\n",
        ),
    ] {
        sandbox.create(
            name,
            &format!("FROM smol\nTEMPLATE \"\"\"{template}\"\"\"\n"),
        );
    }
    sandbox
}

/// The answer with its timestamps replaced by `T`.
fn timeless(body: &str) -> String {
    let mut parts = body.split("\"created_at\":\"");
    let mut out = parts.next().unwrap_or_default().to_string();
    for part in parts {
        out += "\"created_at\":T";
        out += part.split_once('"').map_or("", |(_, rest)| rest);
    }
    out
}

fn ask(server: &Server, request: &str, headers: &str, body: &str) -> Answer {
    let (method, path) = request.split_once(' ').unwrap();
    let headers = match headers {
        "" => String::new(),
        line => format!("{line}\r\n"),
    };
    server.ask_with(method, path, body, &headers)
}

#[test]
fn every_case_has_its_place() {
    let table = data("conformance.tsv");
    let rows = table.lines().filter(|line| !line.starts_with('#'));
    let of_table = rows.map(|row| row.split('\t').next().unwrap().parse::<usize>().unwrap());
    let mut all: Vec<usize> = of_table.collect();
    all.extend(HERE);
    all.extend(ELSEWHERE.iter().chain(OTHERWISE).map(|(number, _)| number));
    let missing: Vec<usize> = (1..=97).filter(|number| !all.contains(number)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert!(OTHERWISE.len() <= 10);
}

#[test]
fn single_requests_are_answered_as_the_reference_does() {
    let sandbox = sandbox();
    let server = sandbox.serve(&[]);
    let mut wrong = Vec::new();
    for row in data("conformance.tsv")
        .lines()
        .filter(|line| !line.starts_with('#'))
    {
        let [number, request, headers, body, status, expected] =
            row.split('\t').collect::<Vec<_>>().try_into().unwrap();
        let answer = ask(&server, request, headers, body);
        let found = timeless(&answer.body);
        let expected_text = expected.get(1..).unwrap_or_default();
        let fits = match expected.chars().next() {
            Some('=') => found == expected_text,
            Some('^') => found.starts_with(expected_text),
            Some('~') => found.contains(expected_text),
            _ => true,
        };
        if answer.status.to_string() != status || !fits {
            let start: String = body.chars().take(200).collect();
            wrong.push(format!(
                "{number} {request} {headers} {start}\n  {status} {expected}\n  {} {found}",
                answer.status
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn headers_are_the_references() {
    let sandbox = sandbox();
    let server = sandbox.serve(&[]);
    let get = |request: &str| ask(&server, request, "", "");
    for (request, name, value) in [
        ("GET /", "content-type", "text/plain; charset=utf-8"),
        ("HEAD /", "content-length", "17"),
        (
            "GET /api/version",
            "content-type",
            "application/json; charset=utf-8",
        ),
        ("GET /nope", "content-type", "text/plain"),
        ("GET /api/show", "allow", "POST"),
        ("HEAD /api/ps", "allow", "GET"),
        ("GET /api/tags/", "location", "/api/tags"),
    ] {
        assert_eq!(get(request).header(name), Some(value), "{request}");
    }
    let near = "Origin: http://localhost:3000";
    let answer = ask(&server, "GET /", near, "");
    assert_eq!(answer.header("vary"), Some("Origin"));
    let body = r#"{"model":"smol","prompt":"hi","options":{"num_predict":1}}"#;
    let stream = ask(&server, "POST /api/generate", "", body);
    assert_eq!(stream.header("content-type"), Some("application/x-ndjson"));
    let refused = ask(&server, "POST /api/create", "", r#"{"model":"x"}"#);
    assert_eq!(refused.header("content-type"), Some("application/json"));
    drop(server);
    // 18, 27 (and 20, see above): what environment variables allow or forbid.
    let open = sandbox.serve(&[("OLLAMA_ORIGINS", "*")]);
    let far = ask(&open, "GET /", "Origin: http://evil.com", "");
    assert_eq!(far.header("access-control-allow-origin"), Some("*"));
    drop(open);
    let mut wide = sandbox.command(&["serve", "--host", "0.0.0.0:0", "--open"]);
    wide.env("OLLAMA_NO_CLOUD", "1");
    let mut wide = Server::start(wide);
    wide.at = wide.at.replace("0.0.0.0", "127.0.0.1");
    assert_eq!(ask(&wide, "GET /", "Host: ollama:11434", "").status, 200);
    assert_eq!(ask(&wide, "GET /", "Host: 8.8.8.8", "").status, 200);
    let cloud = ask(&wide, "POST /api/generate", "", r#"{"model":"smol:cloud"}"#);
    let words = "ollama cloud is disabled: remote model is unavailable";
    assert_eq!((cloud.status, cloud.error().as_str()), (403, words));
}

#[test]
fn answers_stream_in_the_references_records() {
    let sandbox = sandbox();
    let server = sandbox.serve(&[]);
    let five = json!({"model": "smol", "prompt": "hi", "options": {"num_predict": 5}});
    let generate = |more: Json| {
        let mut body = five.clone();
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        server.ask("POST", "/api/generate", &body.to_string())
    };
    let keys = |json: &Json| {
        json.as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect::<Vec<_>>()
            .join(" ")
    };
    // 30: five records, then the last one.
    let lines = generate(json!({})).lines();
    assert_eq!(lines.len(), 6);
    for line in &lines[..5] {
        assert_eq!(keys(line), "model created_at response done");
    }
    assert_eq!(
        keys(&lines[5]),
        "model created_at response done done_reason context total_duration load_duration \
         prompt_eval_count prompt_eval_duration eval_count eval_duration"
    );
    assert_eq!(
        (&lines[5]["response"], &lines[5]["done_reason"]),
        (&json!(""), &json!("length"))
    );
    // 31, 32.
    let one = generate(json!({"stream": false})).json();
    assert_eq!(
        (&one["eval_count"], &one["done_reason"]),
        (&json!(5), &json!("length"))
    );
    assert!(generate(json!({"stream": false, "raw": true})).json()["context"].is_null());
    // 52: chat puts its metrics last.
    let body = json!({"model": "smol", "messages": [{"role": "user", "content": "hi"}], "options": {"num_predict": 3}});
    let chat = server.ask("POST", "/api/chat", &body.to_string()).lines();
    assert_eq!(keys(&chat[0]["message"]), "role content");
    // Ours is the count of cached tokens, since this prompt begins like an earlier one.
    assert_eq!(
        keys(&chat[chat.len() - 1]).replace(" prompt_cached_count", ""),
        "model created_at message done done_reason total_duration load_duration \
         prompt_eval_count prompt_eval_duration eval_count eval_duration"
    );
    // 62: logprobs of each token.
    let body = json!({"model": "smol", "messages": [{"role": "user", "content": "hi"}],
        "logprobs": true, "top_logprobs": 2, "options": {"num_predict": 3, "temperature": 0}});
    let lines = server.ask("POST", "/api/chat", &body.to_string()).lines();
    let (last, tokens) = lines.split_last().unwrap();
    assert!(tokens.len() == 3 && last["logprobs"].is_null());
    for record in tokens {
        let [token] = &record["logprobs"].as_array().unwrap()[..] else {
            panic!("{record}");
        };
        assert_eq!(token["token"], record["message"]["content"]);
        assert_eq!(keys(token), "token logprob bytes top_logprobs");
        let bytes: Vec<Json> = record["message"]["content"]
            .as_str()
            .unwrap()
            .bytes()
            .map(Json::from)
            .collect();
        assert_eq!(token["bytes"], Json::from(bytes));
        // At temperature 0 the most likely token is chosen.
        assert_eq!(token["top_logprobs"].as_array().unwrap().len(), 2);
        assert_eq!(token["top_logprobs"][0]["logprob"], token["logprob"]);
    }
    let body = json!({"model": "smol", "prompt": "hi", "logprobs": true, "stream": false, "options": {"num_predict": 4}});
    let whole = server.post("/api/generate", &body.to_string());
    assert_eq!(whole["logprobs"].as_array().unwrap().len(), 4);
    assert!(whole["logprobs"][0]["top_logprobs"].is_null());
}

#[test]
fn prompts_are_put_together_as_the_reference_does() {
    let sandbox = sandbox();
    let server = sandbox.serve(&[]);
    let rendered = |body: &Json| {
        let mut body = body.clone();
        body["_debug_render_only"] = true.into();
        let answer = server.post("/api/chat", &body.to_string());
        // 63: an empty role, and not done.
        assert_eq!(answer["message"], json!({"role": "", "content": ""}));
        assert_eq!(answer["done"], false);
        answer["_debug_info"]["rendered_template"]
            .as_str()
            .unwrap()
            .to_string()
    };
    // 57: the system prompt, the model's messages, the user's messages.
    let user = json!({"role": "user", "content": "U"});
    let whole = rendered(&json!({"model": "smol-sys", "messages": [user]}));
    let order =
        ["SYS", "hi", "hello", "U"].map(|text| whole.find(&format!("\n{text}<|im_end|>")).unwrap());
    assert!(order.is_sorted(), "{whole}");
    let own = rendered(
        &json!({"model": "smol-sys", "messages": [{"role": "system", "content": "MINE"}, user]}),
    );
    assert!(own.contains("MINE") && !own.contains("SYS"), "{own}");
    // 58: the oldest messages are dropped; the system message and the last message stay.
    let mut messages = vec![json!({"role": "system", "content": "KEEP"})];
    for number in 0..30 {
        messages.push(json!({"role": "user", "content": format!("question {number}")}));
        messages.push(json!({"role": "assistant", "content": format!("answer {number}")}));
    }
    messages.push(json!({"role": "user", "content": "LAST"}));
    let mut body = json!({"model": "smol", "messages": messages, "options": {"num_ctx": 64}});
    let cut = rendered(&body);
    assert!(
        cut.contains("KEEP") && cut.contains("LAST") && !cut.contains("question 0<"),
        "{cut}"
    );
    body["truncate"] = false.into();
    assert!(rendered(&body).contains("question 0<"));
    // 48: a prompt that is too long.
    let long = "word ".repeat(1500);
    let ask = |more: Json| {
        let mut body = json!({"model": "smol", "prompt": long, "raw": true, "stream": false,
            "options": {"num_ctx": 64, "num_predict": 1}});
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        server.ask("POST", "/api/generate", &body.to_string())
    };
    assert_eq!(ask(json!({})).json()["prompt_eval_count"], 34);
    let refused = ask(json!({"shift": false}));
    assert_eq!(refused.status, 400);
    assert!(
        refused
            .error()
            .starts_with("the prompt is longer than the context length")
    );
    let refused = ask(json!({"truncate": false}));
    assert_eq!(refused.status, 400);
    assert!(
        refused
            .error()
            .contains("exceeds the available context size")
    );
    // 49: stop strings.
    let body = json!({"model": "smol", "prompt": "Count: one two three four five six", "raw": true,
        "stream": false, "options": {"stop": [" "], "temperature": 0}});
    let stopped = server.post("/api/generate", &body.to_string());
    assert_eq!(stopped["done_reason"], "stop");
    assert!(!stopped["response"].as_str().unwrap().contains(' '));
}

#[test]
fn thinking_and_calls_have_their_fields() {
    let sandbox = sandbox();
    let server = sandbox.serve(&[]);
    let tool = json!({"type": "function", "function": {"name": "get_weather", "parameters":
        {"type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}}, "required": ["city"]}}});
    let mut body = json!({"model": "tool-tpl", "messages": [{"role": "user", "content": "Weather in Rome?"}],
        "tools": [tool], "tool_choice": "required", "options": {"num_predict": 100, "temperature": 0}});
    // 59: a tool call has its own record.
    let lines = server.ask("POST", "/api/chat", &body.to_string()).lines();
    let with_call: Vec<&Json> = lines
        .iter()
        .filter(|line| !line["message"]["tool_calls"].is_null())
        .collect();
    let call = &with_call[0]["message"]["tool_calls"][0];
    assert_eq!(
        (&with_call[0]["done"], &with_call[0]["message"]["content"]),
        (&json!(false), &json!(""))
    );
    let id = call["id"].as_str().unwrap();
    assert!(id.starts_with("call_") && id.len() == 13, "{id}");
    assert_eq!(
        (&call["function"]["index"], &call["function"]["name"]),
        (&json!(0), &json!("get_weather"))
    );
    assert!(call["function"]["arguments"]["city"].is_string());
    assert!(lines.last().unwrap()["message"]["tool_calls"].is_null());
    body["stream"] = false.into();
    let whole = server.post("/api/chat", &body.to_string());
    assert!(whole["message"]["tool_calls"].is_array() && whole["done_reason"] == "stop");
    // 60: JSON that does not name a tool is text.
    body.as_object_mut().unwrap().remove("tool_choice");
    body["grammar"] = r#"root ::= "{\"city\": \"Rome\"}""#.into();
    let text = server.post("/api/chat", &body.to_string());
    assert_eq!(
        text["message"],
        json!({"role": "assistant", "content": "{\"city\": \"Rome\"}"})
    );
    // 61: thinking is on by default and can be turned off.
    let mut body = json!({"model": "think-tpl", "messages": [{"role": "user", "content": "Hi"}],
        "stream": false, "options": {"num_predict": 5, "temperature": 0}});
    let thinks = server.post("/api/chat", &body.to_string());
    assert!(!thinks["message"]["thinking"].is_null() && thinks["message"]["content"] == "");
    body["think"] = false.into();
    let says = server.post("/api/chat", &body.to_string());
    assert!(says["message"]["thinking"].is_null() && says["message"]["content"] != "");
}

#[test]
fn models_are_listed_with_the_references_fields() {
    let sandbox = sandbox();
    let empty = Sandbox::new();
    assert_eq!(
        empty.serve(&[]).ask("GET", "/api/tags", "").body,
        r#"{"models":[]}"#
    );
    let server = sandbox.serve(&[]);
    let keys = |json: &Json| {
        json.as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect::<Vec<_>>()
            .join(" ")
    };
    // 71, 72.
    let tags = server.ask("GET", "/api/tags", "").json();
    let entry = tags["models"]
        .as_array()
        .unwrap()
        .iter()
        .find(|model| model["name"] == "smol:latest")
        .unwrap();
    assert_eq!(
        keys(entry),
        "name model modified_at size digest details capabilities"
    );
    assert!(
        entry["details"]["context_length"].is_u64()
            && entry["details"]["embedding_length"].is_u64()
    );
    server.post("/api/generate", r#"{"model":"smol"}"#);
    let ps = server.ask("GET", "/api/ps", "").json();
    let entry = keys(&ps["models"][0]);
    assert!(
        entry.starts_with("name model size digest details expires_at size_vram context_length"),
        "{entry}"
    );
    assert!(ps["models"][0]["details"]["context_length"].is_null());
    // 73, 74.
    let shown = server.post("/api/show", r#"{"model":"smol-sys"}"#);
    assert_eq!(shown["license"], "MIT\nApache");
    let modelfile = shown["modelfile"].as_str().unwrap();
    for line in [
        "PARAMETER stop foo\n",
        "PARAMETER stop bar\n",
        "MESSAGE user hi\n",
    ] {
        assert!(modelfile.contains(line), "{modelfile}");
    }
    let parameters = shown["parameters"].as_str().unwrap();
    let stop = format!("{:<30} \"foo\"", "stop");
    assert!(parameters.lines().any(|line| line == stop), "{parameters}");
    assert_eq!(shown["details"]["parent_model"], "smol:latest");
    assert!(shown["model_info"]["tokenizer.ggml.tokens"].is_null() && shown["tensors"].is_array());
    let verbose = server.post("/api/show", r#"{"model":"smol","verbose":true}"#);
    assert_eq!(
        verbose["model_info"]["tokenizer.ggml.tokens"]
            .as_array()
            .unwrap()
            .len(),
        49152
    );
    for absent in ["general.name", "tokenizer.chat_template"] {
        assert!(verbose["model_info"].get(absent).is_none(), "{absent}");
    }
    // 82: creation reports its steps.
    let body = json!({"model": "made", "from": "smol", "system": "new here"});
    let lines = server.ask("POST", "/api/create", &body.to_string()).lines();
    let steps: Vec<&str> = lines
        .iter()
        .map(|line| line["status"].as_str().unwrap())
        .collect();
    assert!(
        steps[0].starts_with("using existing layer sha256:"),
        "{steps:?}"
    );
    assert!(
        steps
            .iter()
            .any(|step| step.starts_with("creating new layer sha256:"))
    );
    assert_eq!(steps[steps.len() - 2..], ["writing manifest", "success"]);
    // 67: embed::inputs_of_every_kind_get_the_references_answers covers it too.
    let two = server.post(
        "/api/embed",
        r#"{"model":"emb","input":["a","b"],"dimensions":4}"#,
    );
    assert_eq!(two["embeddings"][1].as_array().unwrap().len(), 4);
}
