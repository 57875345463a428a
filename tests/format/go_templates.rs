//! Go templates from Ollama's library: their prompts are compared with those of Go's own
//! text/template (`tests/data/gotmpl/ORIGIN` says how they were recorded).

use puna::format::template::Template;
use serde_json::Value as Json;

use crate::format::templates::{data, json, render, tools};

#[test]
fn prompts_are_gos_to_the_byte() {
    let (expected, tools) = (json("gotmpl/expected.json"), tools());
    let mut chats = json("chats.json");
    let more = json("gotmpl/chats.json");
    let all = chats.as_object_mut().unwrap();
    all.extend(more.as_object().unwrap().clone());
    let mut wrong = Vec::new();
    let mut count = 0;
    for (name, prompts) in expected.as_object().unwrap() {
        let template = Template::from_text(&data(&format!("gotmpl/{name}.gotmpl")))
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        for (key, prompt) in prompts.as_object().unwrap() {
            let (chat, think) = key.split_once(" think=").unwrap_or((key, ""));
            let mut chat = chats[chat].clone();
            if !think.is_empty() {
                chat["think"] = Json::from(think == "on");
            }
            let found = render(&template, &chat, &tools);
            let found = found.map_or(Json::Null, |(text, _)| text.into());
            count += 1;
            if found != *prompt {
                wrong.push(format!("{name} {key}\n  {prompt}\n  {found}"));
            }
        }
    }
    assert!(
        count > 800 && wrong.is_empty(),
        "{} of {count} differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}
