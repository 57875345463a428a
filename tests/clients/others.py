"""One real call each by simonw's llm, litellm and LangChain; argument: the server's address.

The models are scripted: tests/support/scripted_model.rs.
"""

import os
import subprocess
import sys
import tempfile

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # Else importing it asks the internet.
import litellm
from langchain_core.tools import tool
from langchain_ollama import ChatOllama
from langchain_openai import ChatOpenAI

base = sys.argv[1]
SKY = "The sky is blue because air scatters blue light more than red light."
hi = [{"role": "user", "content": "hi"}]

with tempfile.TemporaryDirectory() as folder:
    with open(os.path.join(folder, "extra-openai-models.yaml"), "w") as file:
        file.write(f"- model_id: scripted\n  model_name: text\n  api_base: {base}/v1\n")
    words = [sys.executable, "-m", "llm", "-m", "scripted", "--key", "none", "hi"]
    said = subprocess.run(words, env={**os.environ, "LLM_USER_PATH": folder}, capture_output=True, text=True)
    assert said.stdout == SKY + "\n", said

for model, at in [("ollama_chat/text", base), ("ollama/text", base), ("openai/text", base + "/v1")]:
    whole = litellm.completion(model=model, api_base=at, api_key="none", messages=hi)
    assert whole.choices[0].message.content == SKY, (model, whole)
    parts = litellm.completion(model=model, api_base=at, api_key="none", messages=hi, stream=True)
    assert "".join(part.choices[0].delta.content or "" for part in parts) == SKY, model


@tool
def get_weather(city: str, days: int) -> str:
    """Weather of a city."""
    return "sun"


for chat in [
    lambda model: ChatOllama(model=model, base_url=base),
    lambda model: ChatOpenAI(model=model, base_url=base + "/v1", api_key="none"),
]:
    assert chat("text").invoke("hi").content == SKY
    assert "".join(part.content for part in chat("text").stream("hi")) == SKY
    called = chat("tool").bind_tools([get_weather]).invoke("hi").tool_calls
    assert [(call["name"], call["args"]) for call in called] == [("get_weather", {"city": "Rome", "days": 3})], called
print("all done")
