"""Golden streams through the stream helpers of OpenAI's and Anthropic's Python SDKs; argument: the address.

The models are scripted (tests/support/scripted_model.rs): each gives its one answer to any prompt.
"""

import json
import sys

import anthropic
import openai

chat = openai.OpenAI(base_url=sys.argv[1] + "/v1", api_key="none", max_retries=0)
claude = anthropic.Anthropic(base_url=sys.argv[1], api_key="none", max_retries=0)

SKY = "The sky is blue because air scatters blue light more than red light."
ASKED = [{"role": "user", "content": "hi"}]
PROPERTIES = {"city": {"type": "string"}, "days": {"type": "integer"}}
SCHEMA = {"type": "object", "properties": PROPERTIES, "required": ["city", "days"], "additionalProperties": False}
WEATHER = {"name": "get_weather", "description": "d", "parameters": SCHEMA}
ALARM = {"name": "set_alarm", "description": "d", "parameters": {"type": "object", "properties": {"at": {"type": "string"}}}}
ROME = {"city": "Rome", "days": 3}


def completion(model, **more):
    """The final completion, and the text and events of the way there."""
    seen, text = [], ""
    options = {"include_usage": True}
    with chat.chat.completions.stream(model=model, messages=ASKED, stream_options=options, **more) as stream:
        for event in stream:
            seen.append(event.type)
            if event.type == "content.delta":
                text += event.delta
        return stream.get_final_completion(), text, seen


def openai_chat():
    whole, text, seen = completion("text")
    assert text == whole.choices[0].message.content == SKY, whole
    assert whole.choices[0].finish_reason == "stop" and "content.done" in seen, (whole, seen)
    assert whole.usage.completion_tokens > 5 and whole.usage.prompt_tokens > 5, whole.usage
    tools = [{"type": "function", "function": function} for function in (WEATHER, ALARM)]
    whole, text, seen = completion("tool", tools=tools)
    message = whole.choices[0].message
    assert text == "I look." and whole.choices[0].finish_reason == "tool_calls", whole
    assert [call.function.name for call in message.tool_calls] == ["get_weather"], message
    assert json.loads(message.tool_calls[0].function.arguments) == ROME, message
    assert "tool_calls.function.arguments.done" in seen, seen
    whole, text, _ = completion("tools", tools=tools)
    calls = whole.choices[0].message.tool_calls
    assert [call.function.name for call in calls] == ["get_weather", "set_alarm"], calls
    assert json.loads(calls[1].function.arguments) == {"at": "noon"} and not text, calls
    assert len({call.id for call in calls}) == 2, calls
    whole, text, _ = completion("think", reasoning_effort="high")
    assert text == "It is 4.", text
    thought = [part.choices[0].delta.model_extra.get("reasoning") or "" for part in raw("think") if part.choices]
    assert "".join(thought) == "Two and two make four.", thought
    whole, text, _ = completion("text", stop=[" because"])
    assert text == "The sky is blue" and whole.choices[0].finish_reason == "stop", whole
    parts = list(raw("text", max_tokens=2))
    ends = [part.choices[0].finish_reason for part in parts if part.choices]
    said = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
    assert ends[-1] == "length" and SKY.startswith(said) and said, parts
    schema = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, "strict": True}}
    whole, text, _ = completion("json", response_format=schema)
    assert json.loads(text) == ROME, text
    try:
        list(raw("json", response_format=schema, stop=["Rome"]))
        raise SystemExit("a broken stream went unnoticed")
    except openai.APIError as error:
        assert "before it was complete" in str(error), error


def raw(model, **more):
    return chat.chat.completions.create(model=model, messages=ASKED, stream=True, **more)


def response(model, **more):
    seen = []
    with chat.responses.stream(model=model, input="hi", **more) as stream:
        for event in stream:
            seen.append(event)
        return stream.get_final_response(), seen


def openai_responses():
    whole, seen = response("text")
    assert whole.output_text == SKY and whole.status == "completed", whole
    deltas = [event.delta for event in seen if event.type == "response.output_text.delta"]
    assert "".join(deltas) == SKY and seen[-1].type == "response.completed", seen
    assert [event.sequence_number for event in seen] == list(range(len(seen))), seen
    tools = [{"type": "function", **function, "strict": True} for function in (WEATHER, ALARM)]
    whole, _ = response("tool", tools=tools)
    assert [item.type for item in whole.output] == ["message", "function_call"], whole
    assert json.loads(whole.output[1].arguments) == ROME and whole.output_text == "I look.", whole
    whole, _ = response("tools", tools=tools)
    assert [item.name for item in whole.output] == ["get_weather", "set_alarm"], whole
    whole, _ = response("think", reasoning={"effort": "high"})
    assert [item.type for item in whole.output] == ["reasoning", "message"], whole
    assert whole.output_text == "It is 4.", whole
    events = list(chat.responses.create(model="text", input="hi", stream=True, max_output_tokens=2))
    assert events[-1].type == "response.incomplete", events[-1]
    assert events[-1].response.incomplete_details.reason == "max_output_tokens", events[-1]


def message(model, **more):
    more = {"max_tokens": 100, **more}
    with claude.messages.stream(model=model, messages=ASKED, **more) as stream:
        seen = [event.type for event in stream]
        return stream.get_final_message(), seen


def anthropics():
    whole, seen = message("text")
    assert [block.type for block in whole.content] == ["text"] and whole.content[0].text == SKY, whole
    assert whole.stop_reason == "end_turn" and seen[0] == "message_start" and seen[-1] == "message_stop", seen
    usage = whole.usage
    assert usage.input_tokens + usage.cache_read_input_tokens > 5 and usage.output_tokens > 5, usage
    tools = [{"name": one["name"], "description": "d", "input_schema": one["parameters"]} for one in (WEATHER, ALARM)]
    whole, _ = message("tool", tools=tools)
    assert [block.type for block in whole.content] == ["text", "tool_use"], whole
    assert whole.content[1].input == ROME and whole.stop_reason == "tool_use", whole
    whole, _ = message("tools", tools=tools)
    assert [block.name for block in whole.content] == ["get_weather", "set_alarm"], whole
    whole, _ = message("think", thinking={"type": "enabled", "budget_tokens": 1024}, max_tokens=2048)
    assert [block.type for block in whole.content] == ["thinking", "text"], whole
    assert whole.content[0].thinking == "Two and two make four." and whole.content[1].text == "It is 4.", whole
    whole, _ = message("text", max_tokens=2)
    assert whole.stop_reason == "max_tokens" and SKY.startswith(whole.content[0].text), whole
    whole, _ = message("text", stop_sequences=[" because"])
    assert whole.stop_reason == "stop_sequence" and whole.stop_sequence == " because", whole
    assert whole.content[0].text == "The sky is blue", whole
    shape = {"format": {"type": "json_schema", "schema": SCHEMA}}
    whole, _ = message("json", output_config=shape)
    assert json.loads(whole.content[0].text) == ROME, whole
    try:
        message("json", output_config=shape, stop_sequences=["Rome"])
        raise SystemExit("a broken stream went unnoticed")
    except anthropic.APIStatusError as error:
        assert "before it was complete" in str(error), error


def openai_decisions():
    """Questions about a text: answers in their order, whose values keep their types."""
    questions = [
        {"type": "predicate", "instructions": "It is about the sky."},
        {"type": "choice", "instructions": "Which?", "name": "which", "choices": [{"value": one} for one in (True, "true", False)]},
        {"type": "score", "instructions": "How blue?", "levels": [{"label": "grey"}, {"label": "blue"}]},
    ]
    decided = chat.decisions.create(model="text", input=SKY, questions=questions)
    predicate, choice, score = decided.answers
    assert predicate.name is None and 0 <= predicate.probability <= 1, predicate
    values = [(type(one.value), one.value) for one in choice.probabilities]
    assert values == [(bool, True), (str, "true"), (bool, False)] and choice.name == "which", choice
    assert abs(sum(one.probability for one in choice.probabilities) - 1) < 1e-6, choice
    assert [one.label for one in score.probabilities] == ["grey", "blue"] and 0 <= score.score <= 1, score
    assert decided.usage.input_tokens > 100 and decided.usage.total_tokens >= decided.usage.input_tokens, decided


openai_chat()
openai_responses()
openai_decisions()
anthropics()
print("all done")
