"""What the official Python client does against puna; argument: the server's address."""

import asyncio
import sys

import ollama

client = ollama.Client(host=sys.argv[1])
greedy = {"temperature": 0, "num_predict": 8}
hi = [{"role": "user", "content": "Count from 1 to 10."}]

whole = client.chat("smol", messages=hi, options=greedy)
assert whole.done and whole.message.role == "assistant" and whole.message.content, whole
assert whole.eval_count > 0 and whole.prompt_eval_count > 0, whole
parts = list(client.chat("smol", messages=hi, options=greedy, stream=True))
assert "".join(part.message.content for part in parts) == whole.message.content
assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]

told = client.generate("smol", "Count: one two", raw=True, options=greedy, logprobs=True, top_logprobs=2)
assert told.response and len(told.logprobs) == told.eval_count, told
assert told.logprobs[0].top_logprobs[0].logprob <= 0
schema = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
held = client.chat("smol", messages=hi, format=schema, options={"num_predict": 60})
assert '"age"' in held.message.content, held

tool = {"type": "function", "function": {"name": "now", "description": "d",
        "parameters": {"type": "object", "properties": {}}}}
try:
    client.chat("smol", messages=hi, tools=[tool])
    raise SystemExit("tools were taken")
except ollama.ResponseError as error:
    assert error.status_code == 400 and "does not support tools" in error.error, error

vectors = client.embed("emb", ["a", "b"])
assert len(vectors.embeddings) == 2 and len(vectors.embeddings[0]) == 384
assert len(client.embeddings("emb", "a").embedding) == 384

shown = client.show("smol")
assert shown.details.family == "llama" and "completion" in shown.capabilities, shown
assert shown.modelinfo["llama.context_length"] == 8192
assert {model.model for model in client.list().models} >= {"smol:latest", "emb:latest"}
assert any(model.model == "smol:latest" and model.size > 0 for model in client.ps().models)

steps = [step.status for step in client.create("made", from_="smol", system="Be brief.", stream=True)]
assert steps[-1] == "success", steps
assert client.show("made").modelfile.count("Be brief.") == 1
client.copy("made", "copied")
assert client.delete("copied").status == "success"
try:
    client.show("copied")
    raise SystemExit("a model outlived its deletion")
except ollama.ResponseError as error:
    assert error.status_code == 404, error


async def at_once():
    client = ollama.AsyncClient(host=sys.argv[1])
    answers = await asyncio.gather(*(client.chat("smol", messages=hi, options=greedy) for _ in range(4)))
    assert {answer.message.content for answer in answers} == {whole.message.content}
    stream = await client.chat("smol", messages=hi, stream=True, options={"num_predict": 2000})
    async for _part in stream:
        break  # Leaves in the middle.
    assert (await client.chat("smol", messages=hi, options=greedy)).message.content == whole.message.content


asyncio.run(at_once())
print("all done")
