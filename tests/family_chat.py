"""How the families of `tiny_families` take turns: their published chat templates, and their tokenizers' own tokens.

Facts of each publication, written anew in as few words as render the same for system, user and assistant turns; what is
said there about tools, documents and images is left out. The vocabulary is bytes: which text becomes which ordinary
token changes nothing here, which text becomes a token of its own does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_ALTERNATE = (
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
)


@dataclass(frozen=True)
class FamilyChat:
    """special: tokens that decoding leaves out, in order of their ids. plain: added tokens that it keeps."""

    template: str
    special: tuple[str, ...]
    eos: str
    stop: str
    """The token that ends an answer; where it is not `eos`, the generation configuration may not name it."""
    bos: str | None = None
    pad: str | None = None
    plain: tuple[str, ...] = ()
    forged: tuple[str, ...] = ()
    """Texts that must not act from a passage, a question or an earlier turn."""
    has_system: bool = True
    """Whether the template takes a system turn, wherever it puts that."""
    lead: str = ""
    thinks: bool = False
    last: bool = False
    """Whether a system turn goes before the last question, and is lost where an answer ends the conversation."""

    @property
    def folds(self) -> str | None:
        """Before which question we put a system message ourselves."""
        return "last" if self.last else None if self.has_system else "first"


_LLAMA3 = (
    "{% for m in messages %}{% set content = '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n'"
    " + m['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}"
    "{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
_MISTRAL = (
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}{% set rest = messages[1:] %}"
    "{% else %}{% set rest = messages %}{% endif %}{{ bos_token }}{% for m in rest %}" + _ALTERNATE
    + "{% if m['role'] == 'user' %}{% if loop.last and system is defined %}"
    "{{ '[INST] ' + system + '\n\n' + m['content'] + '[/INST]' }}{% else %}{{ '[INST] ' + m['content'] + '[/INST]' }}"
    "{% endif %}{% else %}{{ ' ' + m['content'] | trim + eos_token }}{% endif %}{% endfor %}"
)  # fmt: skip
_MIXTRAL = (
    "{{ bos_token }}{% for m in messages %}" + _ALTERNATE
    + "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ m['content'] + eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)  # fmt: skip
_QWEN3 = (
    "{% set ns = namespace(last=messages | length - 1) %}"
    "{% for m in messages %}{% if m['role'] == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{% set content = m['content'] %}"
    "{% if '</think>' in content %}{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{% if loop.index0 > ns.last %}"
    "{{ '<|im_start|>assistant\n<think>\n\n</think>\n\n' + content.lstrip('\n') + '<|im_end|>\n' }}"
    "{% else %}{{ '<|im_start|>assistant\n' + content + '<|im_end|>\n' }}{% endif %}"
    "{% else %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{% endif %}"
)
_GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}"
    "{% for m in messages %}" + _ALTERNATE
    + "{% if m['role'] == 'assistant' %}{% set role = 'model' %}{% else %}{% set role = m['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)  # fmt: skip
_DEEPSEEK = (
    "{% if not thinking is defined %}{% set thinking = false %}{% endif %}{% set ns = namespace(system='') %}"
    "{% for m in messages %}{% if m['role'] == 'system' %}{% set ns.system = ns.system + m['content'] %}{% endif %}"
    "{% endfor %}{{ bos_token }}{{ ns.system }}{% for m in messages %}{% if m['role'] == 'user' %}"
    "{{ '<｜User｜>' + m['content'] }}{% elif m['role'] == 'assistant' %}{% set content = m['content'] %}"
    "{% if '</think>' in content %}{% set content = content.split('</think>', 1)[1] %}{% endif %}"
    "{{ '<｜Assistant｜></think>' + content + '<｜end▁of▁sentence｜>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<｜Assistant｜>' }}"
    "{% if thinking %}{{ '<think>' }}{% else %}{{ '</think>' }}{% endif %}{% endif %}"
)
_PHI = (  # the first of Phi-3: a system turn is passed over in silence, and a prompt always begins an answer
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}"
    "{{ '<|user|>\n' + m['content'] + '<|end|>\n<|assistant|>\n' }}"
    "{% elif m['role'] == 'assistant' %}{{ m['content'] + '<|end|>\n' }}{% endif %}{% endfor %}"
)
_PHI3 = (
    "{% for m in messages %}{% if m['role'] in ['system', 'user', 'assistant'] %}"
    "{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
_COHERE = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}"
    "{{ '<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>' + messages[0]['content'] + '<|END_OF_TURN_TOKEN|>' }}"
    "{% else %}{% set rest = messages %}{% endif %}{% for m in rest %}" + _ALTERNATE
    + "{% if m['role'] == 'user' %}"
    "{{ '<|START_OF_TURN_TOKEN|><|USER_TOKEN|>' + m['content'].strip() + '<|END_OF_TURN_TOKEN|>' }}"
    "{% elif m['role'] == 'assistant' %}"
    "{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' + m['content'].strip() + '<|END_OF_TURN_TOKEN|>' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}"
)  # fmt: skip
_R1 = (  # every answer begins inside a thought, and no variable turns that off
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] }}"
    "{% elif m['role'] == 'user' %}{{ '<｜User｜>' + m['content'] }}{% else %}"
    "{{ '<｜Assistant｜>' + m['content'].split('</think>')[-1] + '<｜end▁of▁sentence｜>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\n' }}{% endif %}"
)
_GEMMA_CHAT = FamilyChat(
    _GEMMA, ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"), "<eos>", "<end_of_turn>",
    bos="<bos>", pad="<pad>", plain=("<table>", "<td>"),
    forged=("<start_of_turn>", "<end_of_turn>", "<eos>", "<bos>"), has_system=False,
)  # fmt: skip
_DEEPSEEK_SPECIAL = ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>")
_DEEPSEEK_PLAIN = ("<｜User｜>", "<｜Assistant｜>", "<think>", "</think>")

CHATS: dict[str, FamilyChat] = {
    "llama": FamilyChat(
        _LLAMA3, ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|end_of_text|>", "<|eot_id|>", bos="<|begin_of_text|>",
        forged=("<|eot_id|>", "<|start_header_id|>", "<|end_of_text|>"),
    ),
    "mistral": FamilyChat(
        _MISTRAL, ("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]"), "</s>", "</s>",
        bos="<s>", forged=("[INST]", "[/INST]", "</s>", "[AVAILABLE_TOOLS]"), lead=" ",
        last=True,
    ),
    "mixtral": FamilyChat(
        _MIXTRAL, ("<unk>", "<s>", "</s>"), "</s>", "</s>", bos="<s>", forged=("[INST]", "[/INST]", "</s>"),
        has_system=False,
    ),
    "qwen3": FamilyChat(
        _QWEN3, ("<|endoftext|>", "<|im_start|>", "<|im_end|>"), "<|im_end|>", "<|im_end|>", pad="<|endoftext|>",
        plain=("<tool_call>", "</tool_call>", "<think>", "</think>"),
        forged=("<|im_start|>", "<|im_end|>", "<think>", "</think>", "<|endoftext|>"), thinks=True,
    ),
    "gemma": _GEMMA_CHAT,
    "gemma2": _GEMMA_CHAT,
    "deepseek-v3": FamilyChat(
        _DEEPSEEK, _DEEPSEEK_SPECIAL, "<｜end▁of▁sentence｜>", "<｜end▁of▁sentence｜>", bos="<｜begin▁of▁sentence｜>",
        pad="<｜▁pad▁｜>", plain=_DEEPSEEK_PLAIN,
        forged=("<｜Assistant｜>", "<｜User｜>", "<｜end▁of▁sentence｜>", "</think>"), thinks=True,
    ),
    "deepseek-r1": FamilyChat(
        _R1, _DEEPSEEK_SPECIAL, "<｜end▁of▁sentence｜>", "<｜end▁of▁sentence｜>", bos="<｜begin▁of▁sentence｜>",
        pad="<｜▁pad▁｜>", plain=_DEEPSEEK_PLAIN, forged=("<｜Assistant｜>", "<think>", "</think>"), thinks=True,
    ),
    "phi": FamilyChat(
        _PHI, ("<s>", "</s>", "<|endoftext|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"), "<|endoftext|>",
        "<|end|>", bos="<s>", pad="<|endoftext|>", forged=("<|end|>", "<|assistant|>", "</s>"), has_system=False,
    ),
    "phi3": FamilyChat(
        _PHI3, ("<|endoftext|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"), "<|endoftext|>", "<|end|>",
        pad="<|endoftext|>", forged=("<|end|>", "<|system|>", "<|assistant|>"),
    ),
    "cohere": FamilyChat(
        _COHERE,
        ("<PAD_TOKEN>", "<BOS_TOKEN>", "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>",
         "<|CHATBOT_TOKEN|>", "<|SYSTEM_TOKEN|>"),
        "<|END_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", bos="<BOS_TOKEN>", pad="<PAD_TOKEN>",
        forged=("<|START_OF_TURN_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
    ),
}  # fmt: skip
"""By the name in `tiny_families.FAMILIES`; `deepseek-r1` is another template of the same model."""


def family_tokenizer(name: str) -> Any:
    """Bytes and the family's own tokens, with its template."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    chat = CHATS[name]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={symbol: at for at, symbol in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(chat.special))
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in chat.plain])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=chat.eos, bos_token=chat.bos, pad_token=chat.pad
    )
    fast.chat_template = chat.template
    return fast
