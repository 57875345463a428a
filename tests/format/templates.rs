//! Published chat templates: their prompts are compared with those of Jinja2, and answers are parsed
//! with the tool-call syntax detected from the template.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use puna::core::clock::Local;
use puna::core::message::{Message, Think, Tool, ToolCall};
use puna::format::reply::{Format, Piece, Reader, Stops, Utf8};
use puna::format::template::{Chat, Template};
use puna::format::wire::native;
use serde_json::Value as Json;

use crate::api::structured_output::held_by_grammar;

/// Friday, 2 January 2026, 15:00, the time that `record-prompts` uses.
const NOW: u64 = 1_767_366_000;

pub fn data(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub fn json(path: &str) -> Json {
    serde_json::from_str(&data(path)).unwrap()
}

/// Names of the templates in the test data.
pub fn names() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/templates");
    let files = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let jinja = files.filter(|path| path.extension().is_some_and(|end| end == "jinja"));
    let mut names: Vec<String> = jinja
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_string())
        .collect();
    names.sort();
    names
}

pub fn tools() -> Vec<Tool> {
    let list = json("tools.json");
    list.as_array()
        .unwrap()
        .iter()
        .map(|tool| native::tool(tool).unwrap())
        .collect()
}

fn message(json: &Json) -> Message {
    let mut json = json.clone();
    for (ours, theirs) in [("thinking", "reasoning_content"), ("tool_name", "name")] {
        if let Some(value) = json.as_object_mut().unwrap().remove(theirs) {
            json[ours] = value;
        }
    }
    let wire: native::Message = serde_json::from_value(json).unwrap();
    wire.into()
}

pub fn render(
    template: &Template,
    chat: &Json,
    tools: &[Tool],
) -> Result<(String, Vec<&'static str>), String> {
    let messages: Vec<Message> = chat["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(message)
        .collect();
    let has_tools = chat["tools"] == true;
    let chat = Chat {
        messages: &messages,
        tools: if has_tools { tools } else { &[] },
        think: chat["think"]
            .as_bool()
            .map(|on| if on { Think::On } else { Think::Off }),
        begin: "<s>",
        end: "</s>",
        now: Local::utc(SystemTime::UNIX_EPOCH + Duration::from_secs(NOW)),
        ..Chat::default()
    };
    let rendered = template.render(&chat).map_err(|error| error.to_string())?;
    Ok((rendered.text, rendered.notes))
}

/// For these, Jinja2 escapes plain text that is appended to a `safe` string (`&#34;`), certainly by mistake.
const ESCAPES: [&str; 1] = ["meetkai-functionary-medium-v3.1"];

/// Part of the note for templates without tools, or with tools under another name: we add them ourselves.
const TOOLS_NOTE: &str = "system message";

/// We render every conversation to the same bytes as Jinja2, unless a note says how it was changed;
/// a conversation that Jinja2 rejects is rephrased.
#[test]
fn prompts_are_jinja2s_to_the_byte() {
    let chats: BTreeMap<String, Json> = serde_json::from_value(json("chats.json")).unwrap();
    let tools = tools();
    let mut wrong = Vec::new();
    let mut equal = 0;
    for name in names() {
        let source = data(&format!("templates/{name}.jinja"));
        let template =
            Template::from_gguf(&source, None).unwrap_or_else(|error| panic!("{name}: {error}"));
        let expected = json(&format!("prompts/{name}.json"));
        for (kind, chat) in &chats {
            let found = render(&template, chat, &tools);
            match (&expected[kind.as_str()], found) {
                (Json::String(text), Ok((found, _))) if *text == found => equal += 1,
                // Where Jinja2 rejects a conversation, we may rephrase it or reject it too.
                (Json::Null, _) => {}
                (_, Ok((found, notes))) if notes.iter().any(|note| note.contains(TOOLS_NOTE)) => {
                    assert!(found.contains("get_weather"), "{name} {kind}: {found}");
                }
                _ if ESCAPES.contains(&name.as_str()) && chat["tools"] == true => {}
                (expected, found) => wrong.push(format!(
                    "{name} {kind}:\n  expected {expected}\n  found    {found:?}"
                )),
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{equal} equal, {} differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// An assistant message as the template writes it: the text after the opened turn, up to its end.
fn answer(
    template: &Template,
    message: Message,
    tools: &[Tool],
    format: &Format,
) -> Option<(String, String)> {
    let user = Message::new("user", "hi");
    let chat = |messages: &[Message], opens| {
        let chat = Chat {
            messages,
            tools,
            opens,
            ..Chat::default()
        };
        template.render(&chat).map(|rendered| rendered.text).ok()
    };
    let prompt = chat(std::slice::from_ref(&user), true)?;
    let whole = chat(&[user, message], false)?;
    let common: usize = prompt
        .chars()
        .zip(whole.chars())
        .take_while(|(a, b)| a == b)
        .map(|(a, _)| a.len_utf8())
        .sum();
    let start = match whole[..common].rfind(['<', '[']) {
        Some(at) if !whole[at..common].contains(['>', ']']) => at,
        _ => common,
    };
    let text = whole[start..].to_string();
    // The end-of-turn tokens, which the missing vocabulary would otherwise supply.
    let ends = [
        "<|END_OF_TURN_TOKEN|>",
        "<｜end▁of▁sentence｜>",
        "<|eot_id|>",
        "<|im_end|>",
        "[e~[",
        "</s>",
    ];
    let ends = ends
        .iter()
        .copied()
        .chain(format.ends.iter().map(String::as_str));
    let end = ends.filter_map(|end| text.find(end)).min();
    let end = end.or(text
        .trim_end()
        .strip_suffix("<|message_sep|>")
        .map(str::len));
    Some((
        prompt[..start.min(prompt.len())].to_string(),
        text[..end.unwrap_or(text.len())].to_string(),
    ))
}

/// True if the template has no tool calls, so that we write them as text.
fn text_for_calls(template: &Template, message: &Message, tools: &[Tool]) -> bool {
    let messages = [Message::new("user", "hi"), message.clone()];
    let chat = Chat {
        messages: &messages,
        tools,
        opens: false,
        ..Chat::default()
    };
    template
        .render(&chat)
        .is_ok_and(|rendered| !rendered.notes.is_empty())
}

/// A stop string at the end of every answer.
const STOP: &str = "\u{1f6d1}stop";

/// Parses an answer as a turn does: UTF-8, stop string, reply reader. The answer arrives in two
/// pieces, split at byte `at`.
fn read(
    format: &Arc<Format>,
    tools: &[Tool],
    prompt: &str,
    text: &str,
    at: usize,
) -> (String, String, Vec<ToolCall>) {
    let stopped = format!("{text}{STOP} and more");
    let (first, second) = stopped.as_bytes().split_at(at);
    let (mut utf8, mut stops) = (Utf8::default(), Stops::new(&[STOP.to_string()]));
    let mut reader = Reader::new(format.clone(), tools, prompt);
    let mut pieces = Vec::new();
    let mut found = false;
    for bytes in [first, second] {
        let (passed, here) = stops.push(&utf8.push(bytes));
        pieces.extend(reader.push(&passed));
        found = here;
    }
    assert!(found, "the stop string of {stopped:?} cut at {at}");
    pieces.extend(reader.finish(false));
    let (mut thinking, mut answer_text, mut calls) = (String::new(), String::new(), Vec::new());
    for piece in pieces {
        match piece {
            Piece::Thinking(text) => thinking += &text,
            Piece::Text(text) => answer_text += &text,
            Piece::Call(call) => calls.push(ToolCall { id: None, ..call }),
        }
    }
    (thinking, answer_text, calls)
}

/// Templates without tool calls in their history, so that no syntax can be detected.
const NO_CALLS: &[&str] = &[
    "HuggingFaceTB-SmolLM3-3B",
    "google-gemma-2-2b-it",
    "llama-cpp-rwkv-world",
    "microsoft-Phi-3.5-mini-instruct",
    "microsoft-Phi-4-mini-instruct",
];

/// Templates that quote texts without escaping the quotes inside.
const BARE_QUOTES: &[&str] = &["llama4-pythonic"];

/// Templates whose tag of an argument is the argument's name, that repeat the function's name, or whose
/// tags contain words between tags: their calls stay text.
const NOT_READ: &[&str] = &["Kimi-K3", "MiniMax-M3", "muse-glimmer"];

/// Calls are parsed from what the template itself writes, split at any byte.
#[test]
fn calls_are_read_in_the_shape_that_the_template_shows() {
    let tools = tools();
    let call = |name: &str, arguments: &str| ToolCall {
        id: None,
        name: name.into(),
        arguments: arguments.into(),
    };
    let calls = [
        call("get_weather", r#"{"city":"Rome <b> \"x\" é\n2","days":2}"#),
        call("set_alarm", r#"{"at":"noon","repeat":true}"#),
    ];
    let mut wrong = Vec::new();
    for name in names() {
        let source = data(&format!("templates/{name}.jinja"));
        let template = Template::from_gguf(&source, None).unwrap();
        let format = Arc::new(Format::detect(&template, &source));
        if format.calls.is_none() && !format.channels {
            if !NO_CALLS.contains(&name.as_str()) {
                wrong.push(format!("{name}: no shape"));
            }
            continue;
        }
        for count in [1, 2] {
            let mut message = Message::new("assistant", "");
            message.tool_calls = calls[..count].to_vec();
            if BARE_QUOTES.contains(&name.as_str()) {
                message.tool_calls[0].arguments = r#"{"city":"Rome é","days":2}"#.into();
            }
            let calls = message.tool_calls.clone();
            // One family takes the function's name from the id, another requires nine characters.
            for style in ["functions.", ""] {
                for (index, call) in message.tool_calls.iter_mut().enumerate() {
                    call.id = Some(match style {
                        "" => format!("abcd1234{index}"),
                        prefix => format!("{prefix}{}:{index}", call.name),
                    });
                }
                if answer(&template, message.clone(), &tools, &format).is_some() {
                    break;
                }
            }
            if text_for_calls(&template, &message, &tools) {
                continue;
            }
            let Some((prompt, text)) = answer(&template, message, &tools, &format) else {
                // Jinja2 rejects these tools in the first, and two calls at once in the others.
                let refused =
                    name.contains("command-r-plus") || (count == 2 && name.contains("Llama-3"));
                if !refused {
                    wrong.push(format!("{name}: not rendered"));
                }
                continue;
            };
            // If the prompt opens a thinking tag, the call follows its end tag.
            let text = match &format.think {
                Some((open, close))
                    if prompt.trim_end().ends_with(open.as_str())
                        && !text.contains(close.as_str()) =>
                {
                    close.clone() + &text
                }
                _ => text,
            };
            let count = calls
                .iter()
                .filter(|call| text.contains(&call.name))
                .count();
            if NOT_READ.contains(&name.as_str()) {
                continue;
            }
            if !held_by_grammar(&format, &tools, &text) {
                wrong.push(format!("{name} {count}: the grammar refuses {text:?}"));
            }
            for at in 0..text.len() + STOP.len() {
                let (_, answer_text, found) = read(&format, &tools, &prompt, &text, at);
                if found != calls[..count] || !answer_text.trim().is_empty() {
                    wrong.push(format!("{name} {count} at {at}: {text:?}\n   answer_text {answer_text:?} called {found:?}\n   {format:?}"));
                    break;
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}
/// Call formats from model cards, where the template shows them only in its instructions or not at all.
#[test]
fn calls_that_no_history_shows_are_read() {
    let tools = tools();
    for (name, text) in [
        (
            "microsoft-Phi-4-mini-instruct",
            r#"<|tool_call|>[{"name": "get_weather", "arguments": {"city": "Rome", "days": 2}}, {"name": "set_alarm", "arguments": {"at": "noon"}}]<|/tool_call|>"#,
        ),
        (
            "phi4-mini.gotmpl", // The template lacks a brace.
            r#"<|tool_call|>[{"name":"get_weather","arguments":{"city":"Rome","days":2}},{"name":"set_alarm","arguments":{"at":"noon"}}]<|/tool_call|>"#,
        ),
        (
            "vllm-phi4-mini",
            r#"functools[{"name": "get_weather", "arguments": {"city": "Rome", "days": 2}}, {"name": "set_alarm", "arguments": {"at": "noon"}}]"#,
        ),
        (
            "llama4-pythonic",
            "[get_weather(city=\"Rome\", days=2), set_alarm(at='noon')]",
        ),
        (
            "google-functiongemma-270m-it-format",
            "<start_function_call>call:get_weather{city:<escape>Rome<escape>,days:2}<end_function_call>\
             <start_function_call>call:set_alarm{at:<escape>noon<escape>}<end_function_call>",
        ),
        (
            "google-gemma-2-2b-it",
            "{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Rome\", \"days\": 2}}\n\
             {\"name\": \"set_alarm\", \"arguments\": {\"at\": \"noon\"}}",
        ),
    ] {
        let (source, template) = match name.ends_with(".gotmpl") {
            true => {
                let source = data(&format!("gotmpl/{name}"));
                (source.clone(), Template::from_text(&source).unwrap())
            }
            false => {
                let source = data(&format!("templates/{name}.jinja"));
                (source.clone(), Template::from_gguf(&source, None).unwrap())
            }
        };
        let format = Arc::new(Format::detect(&template, &source));
        for at in 0..text.len() + STOP.len() {
            let (_, answer_text, calls) = read(&format, &tools, "", text, at);
            let found: Vec<_> = calls
                .iter()
                .map(|call| (call.name.as_str(), call.arguments.as_str()))
                .collect();
            let expected = [
                ("get_weather", r#"{"city":"Rome","days":2}"#),
                ("set_alarm", r#"{"at":"noon"}"#),
            ];
            assert_eq!(found, expected, "{name} at {at}: {format:?}");
            assert_eq!(answer_text.trim(), "", "{name} at {at}");
        }
        let plain = "It is [sunny] {there}, functional.";
        for at in 0..plain.len() {
            let (_, answer_text, calls) = read(&format, &tools, "", plain, at);
            assert_eq!(
                (answer_text.as_str(), calls.len()),
                (plain, 0),
                "{name} at {at}"
            );
        }
    }
}

/// Thinking is separated from the answer by the template's tags, split at any byte.
#[test]
fn thinking_is_parsed_by_the_tags_of_the_template() {
    let mut thinks = 0;
    for name in names() {
        let source = data(&format!("templates/{name}.jinja"));
        let template = Template::from_gguf(&source, None).unwrap();
        let format = Arc::new(Format::detect(&template, &source));
        let message = Message {
            thinking: Some("I <b> wonder.\n\nYes.".into()),
            ..Message::new("assistant", "So [be] it.")
        };
        let Some((prompt, text)) = answer(&template, message, &[], &format) else {
            continue;
        };
        if !text.contains("wonder") || NOT_READ.contains(&name.as_str()) {
            continue; // The template drops earlier thinking.
        }
        thinks += 1;
        for at in 0..text.len() + STOP.len() {
            let (thinking, answer_text, _) = read(&format, &[], &prompt, &text, at);
            assert_eq!(
                (thinking.trim(), answer_text.trim()),
                ("I <b> wonder.\n\nYes.", "So [be] it."),
                "{name} at {at}: {text:?}\n{format:?}"
            );
        }
    }
    assert!(thinks >= 20, "{thinks}");
}

/// The thinking tags of families that each use their own.
#[test]
fn thinking_tags_are_detected() {
    for (name, open, close) in [
        ("Qwen-Qwen3-0.6B", "<think>", "</think>"),
        (
            "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B",
            "<think>",
            "</think>",
        ),
        ("google-gemma-4-31B-it", "<|channel>thought", "<channel|>"),
        ("ByteDance-Seed-OSS", "<seed:think>", "</seed:think>"),
        (
            "CohereForAI-c4ai-command-r7b-12-2024-tool_use",
            "<|START_THINKING|>",
            "<|END_THINKING|>",
        ),
        (
            "mistralai-Ministral-3-14B-Reasoning-2512",
            "[THINK]",
            "[/THINK]",
        ),
        ("Kimi-K3", "<|open|>think<|sep|>", "<|close|>think<|sep|>"),
        ("MiniMax-M3", "<mm:think>", "</mm:think>"),
    ] {
        let source = data(&format!("templates/{name}.jinja"));
        let template = Template::from_gguf(&source, None).unwrap();
        let found = Format::detect(&template, &source).think;
        assert_eq!(found, Some((open.to_string(), close.to_string())), "{name}");
    }
}
