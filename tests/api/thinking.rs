//! Thinking: separated from the answer, shown only on request, limited by its budget.

use serde_json::{Value as Json, json};

use crate::api::structured_output::{PERSON, TEMPLATE, sandbox};
use crate::support::smol;

#[test]
fn thinking_has_a_field_of_its_own() {
    let sandbox = sandbox();
    let server = sandbox.serve(&[]);
    let mut messages = Vec::new();
    for (question, answer) in [("1+1", "2"), ("2+2", "4"), ("3+3", "6"), ("4+4", "8")] {
        messages.push(json!({"role": "user", "content": format!("What is {question}?")}));
        messages.push(json!({"role": "assistant", "thinking": format!("The user asks for {question}."), "content": answer}));
    }
    messages.push(json!({"role": "user", "content": "What is 5+5?"}));
    let mut body = json!({"model": "tooly", "stream": true, "options": {"temperature": 0, "num_predict": 60}, "messages": messages});
    for stream in [true, false] {
        body["stream"] = json!(stream);
        let lines = server.ask("POST", "/api/chat", &body.to_string()).lines();
        let field = |name: &str| -> String {
            lines
                .iter()
                .filter_map(|line| line["message"][name].as_str())
                .collect()
        };
        let (thinking, content) = (field("thinking"), field("content"));
        assert!(thinking.contains("The user asks"), "{lines:?}");
        assert!(
            !thinking.contains("think>") && !content.contains("think>") && !content.is_empty(),
            "{thinking:?} {content:?}"
        );
    }
    let body =
        json!({"model": "smol", "think": true, "messages": [{"role": "user", "content": "x"}]});
    let refused = server.ask("POST", "/api/chat", &body.to_string());
    assert_eq!(
        (refused.status, refused.error().as_str()),
        (400, "\"smol\" does not support thinking")
    );
}

#[test]
fn thinking_ends_where_its_budget_ends() {
    let sandbox = sandbox();
    // The prompt opens the thinking, and SmolLM2 would not close it.
    let opened = TEMPLATE.trim_end().to_string() + "\n<think>\n";
    let lines = format!("FROM {}\nTEMPLATE \"\"\"{opened}\"\"\"\n", smol().display());
    sandbox.create("thinky", &lines);
    let server = sandbox.serve(&[]);
    let messages = json!([{"role": "user", "content": "Tell me a story about a fox."}]);
    let ask = |budget: i64, format: &Json| {
        let options = json!({"temperature": 0, "num_predict": 60, "reasoning_budget": budget});
        let body = json!({"model": "thinky", "stream": false, "think": true, "options": options,
            "format": format, "messages": messages});
        let message = server.post("/api/chat", &body.to_string())["message"].clone();
        ["thinking", "content"].map(|name| message[name].as_str().unwrap_or("").to_string())
    };
    let [endless, unsaid] = ask(-1, &Json::Null);
    assert!(
        endless.len() > 100 && unsaid.is_empty(),
        "{endless:?} {unsaid:?}"
    );
    for budget in [0, 4, 12] {
        let [thinking, content] = ask(budget, &Json::Null);
        let shown = format!("{budget}: {thinking:?} {content:?}");
        assert!(
            endless.starts_with(&thinking) && !content.is_empty(),
            "{shown}"
        );
        // The end tag that the budget forced is not part of the text; a later one from the model is.
        assert!(!content.trim_start().starts_with("</think"), "{shown}");
        let words = thinking.split_whitespace().count() as i64;
        assert!(words <= budget && words >= budget / 2, "{shown}");
    }
    // The budget also works with an output constraint.
    let [thinking, content] = ask(4, &serde_json::from_str(PERSON).unwrap());
    assert!(
        endless.starts_with(&thinking) && !thinking.is_empty(),
        "{thinking:?}"
    );
    let person: Json = serde_json::from_str(&content).unwrap();
    assert!(person["age"].is_u64(), "{content}");
    let thinking = json!({"type": "enabled", "budget_tokens": 4});
    let body = json!({"model": "thinky", "max_tokens": 40, "temperature": 0, "thinking": thinking,
        "messages": messages});
    let blocks = &server.post("/v1/messages", &body.to_string())["content"];
    let thought = blocks[0]["thinking"].as_str().unwrap();
    assert!(thought.split_whitespace().count() <= 4, "{blocks}");
    assert!(!blocks[1]["text"].as_str().unwrap().is_empty(), "{blocks}");
}

#[test]
fn thinking_goes_to_standard_error_and_only_if_asked_for() {
    let sandbox = sandbox();
    let messages: Vec<Json> = [("1+1", "2"), ("2+2", "4"), ("3+3", "6"), ("4+4", "8")]
        .iter()
        .flat_map(|(question, answer)| {
            [
                json!({"role": "user", "content": format!("What is {question}?")}),
                json!({"role": "assistant", "thinking": format!("The user asks for {question}."), "content": answer}),
            ]
        })
        .collect();
    let modelfile = format!("FROM tooly\n{}", {
        let text = |message: &Json| message["content"].as_str().unwrap().to_string();
        messages
            .iter()
            .map(|message| match message["thinking"].as_str() {
                Some(thinking) => format!(
                    "MESSAGE assistant \"\"\"<think>\n{thinking}\n</think>\n\n{}\"\"\"\n",
                    text(message)
                ),
                None => format!("MESSAGE user {}\n", text(message)),
            })
            .collect::<String>()
    });
    sandbox.create("thinky", &modelfile);
    let words = [
        "run",
        "--local",
        "thinky",
        "What is 5+5?",
        "--temperature=0",
        "-n",
        "60",
    ];
    let plain = sandbox.puna(&words, "");
    assert_eq!(plain.stderr, "");
    let answer = plain.ok();
    assert!(
        !answer.contains("think") && !answer.trim().is_empty(),
        "{answer}"
    );
    let shown = sandbox.puna(&[&words[..], &["--think"]].concat(), "");
    assert!(shown.stderr.contains("The user asks"), "{}", shown.stderr);
    assert_eq!(shown.ok(), answer);
    let hidden = sandbox.puna(&[&words[..], &["--think", "--hidethinking"]].concat(), "");
    assert_eq!(
        (hidden.stderr.as_str(), hidden.stdout.as_str()),
        ("", answer.as_str())
    );
    sandbox
        .puna(&["run", "smol", "x", "--think"], "")
        .fails(2, "does not support thinking");
    sandbox
        .puna(&["run", "smol", "x", "--think=much"], "")
        .fails(2, "--think must be true, false");
}
