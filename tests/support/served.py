"""Chat templates of many families, from TRL's package, on one tokenizer, and what must hold for a prepared row."""

import json
import re
from pathlib import Path
from typing import Any

from stages.common import chat, tokens

# Templates with generation markers, and the tokens that end an answer.
FAMILIES = {
    "cohere2_training": "<|END_OF_TURN_TOKEN|>",
    "cohere_training": "<|END_OF_TURN_TOKEN|>",
    "deepseek_r1_distill_training": "<｜end▁of▁sentence｜>",
    "deepseekv3_training": "<｜end▁of▁sentence｜>",
    "gemma3_training": "<end_of_turn>",
    "gemma_training": "<end_of_turn>",
    "glm4moe_training": "<|user|> <|observation|>",
    "gptoss_training": "<|return|> <|call|>",
    "lfm2_2_5": "<|im_end|>",
    "lfm2_training": "<|im_end|>",
    "lfm2_v2_training": "<|im_end|>",
    "llama3_training": "<|eot_id|>",
    "nemotron_3_5_lightning_training": "<|im_end|>",
    "nemotron_3_nano_training": "<|im_end|>",
    "nemotron_3_super_training": "<|im_end|>",
    "nemotron_3_ultra_training": "<|im_end|>",
    "phi3_5_training": "<|end|>",
    "phi3_training": "<|end|>",
    "qwen2_5_training": "<|im_end|>",
    "qwen3_5_nothink_training": "<|im_end|>",
    "qwen3_5_think_training": "<|im_end|>",
    "qwen3_6_training": "<|im_end|>",
    "qwen3_8_training": "<|im_end|>",
    "qwen3_instruct_2507_training": "<|im_end|>",
    "qwen3_training": "<|im_end|>",
}
THINKING = ("deepseek", "nemotron", "qwen3_5_think", "qwen3_6", "qwen3_8")  # their prompts end in <think>
MARKS = re.compile(r"<[|｜][^<>\s|｜]{1,40}[|｜]>|</?(?:think|tool_call|start_of_turn|end_of_turn)>")


def make_base(name: str, folder: Path) -> Path:
    """Write the chat side of a model with a template of TRL: a byte-level tokenizer in which line ends join."""
    import trl
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    source = (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")
    source = re.sub(r"strftime_now\([^)]*\)", "'2024-07-26'", source)
    characters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: index for index, character in enumerate([*characters, "ĊĊ"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("Ċ", "Ċ")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    stops = FAMILIES[name].split()
    found = sorted({*MARKS.findall(source), *stops, "<begin>"})
    # As in DeepSeek's tokenizer, those of roles are not marked as special.
    tokenizer.add_tokens([AddedToken(token, normalized=False, special="User" not in token) for token in found])
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    ends = {"eos_token_id": [tokenizer.token_to_id(stop) for stop in stops]}
    (folder / "generation_config.json").write_text(json.dumps(ends), encoding="utf-8")
    config = {"bos_token": "<begin>", "eos_token": stops[0]}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(source, encoding="utf-8")
    return folder


class Expected:
    """What transformers makes of the rows of a base."""

    def __init__(self, base: Path) -> None:
        """Load the tokenizer of a folder from `make_base`."""
        from transformers import PreTrainedTokenizerFast

        config = json.loads((base / "tokenizer_config.json").read_text(encoding="utf-8"))
        self.tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(base / "tokenizer.json"), **config)
        self.tokenizer.chat_template = (base / "chat_template.jinja").read_text(encoding="utf-8")
        self.chat_tokenizer = chat.load(base)

    def render(self, row: dict[str, Any], end: int | None = None) -> list[int]:
        """Return the ids of a row, or of the prompt before message `end`."""
        key = self.chat_tokenizer.reasoning_key
        messages = [
            message | ({key: message["reasoning_content"]} if "reasoning_content" in message else {})
            for message in row["messages"][:end]
        ]
        return self.tokenizer.apply_chat_template(
            messages, tools=row.get("tools"), add_generation_prompt=end is not None, return_dict=True
        )["input_ids"]

    def check(self, row: dict[str, Any], found: tokens.TokenRow) -> tuple[int, int]:
        """Check the ids of a prepared row and its mask: each answer from the end of its prompt to its stop token.

        Returns:
            How many answers before the last are in the loss, and how many are not.
        """
        assert found.ids == self.render(row)
        allowed, stops = [0] * len(found.ids), self.chat_tokenizer.stop_ids
        answers = [n for n, message in enumerate(row["messages"]) if message["role"] == "assistant"]
        supervised = 0
        for answer in answers:
            prompt = self.render(row, answer)
            start = len(prompt)
            starts = found.ids[:start] == prompt and found.mask[start - 1 : start + 1] == [0, 1]
            if answer == answers[-1]:
                assert starts, (row, self.tokenizer.decode(prompt))
                end = next(n for n in range(start, len(found.ids)) if found.ids[n] in stops) + 1
            elif starts:
                end = found.mask.index(0, start)
                supervised += 1
            else:
                continue
            allowed[start:end] = [1] * (end - start)
        assert found.mask == allowed, row
        return supervised, len(answers) - 1 - supervised
