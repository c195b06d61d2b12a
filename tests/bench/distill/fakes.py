"""A file with a vocabulary."""

from pathlib import Path


def write_target(path: Path, *, num_vocab: int = 288, width: int = 64) -> None:
    """A GGUF with a small SentencePiece vocabulary and a random embedding; nothing else."""
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(path, "llama")
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    # Without a token for spaces each becomes three bytes, more than the engine reckons with.
    tokens += ["\u2581", *(f"w{i}" for i in range(num_vocab - len(tokens) - 1))]
    kinds = [2, 3, 3, *[6] * 256, *[1] * (num_vocab - 259)]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * num_vocab)
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(False)
    rows = np.random.default_rng(5).normal(size=(num_vocab, width)).astype(np.float32)
    writer.add_tensor("token_embd.weight", rows)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
