"""Weights of LlamaGen's, IBQ's and Open-MAGVIT2's generators; the network is `models.llama`."""

from typing import Any

from babeldraw.convert.table import Ignored, Row, Table

HEADS = "(3 n h) d -> 3 d n h"
ELSE = Ignored(r"(?!transformer\.).*", "the tokenizer, and what else is no part of the generator")


def llamagen(section: Any) -> Table:
    """LlamaGen by classes: `c2i_B_256.pt` and the like, of DDP or, bare, of FSDP."""
    del section
    return (
        Row("prefix/embed/table", "cls_embedding.embedding_table.weight"),
        *_llamagen(),
    )


def llamagen_text(section: Any) -> Table:
    """LlamaGen by texts, `t2i_XL_stage1_256.pt`, which reads states of FLAN-T5-XL."""
    del section
    return (
        Row("prefix/nothing", "cls_embedding.uncond_embedding"),
        Row("prefix/hidden/weight", "cls_embedding.cap_proj.fc1.weight", "d c -> c d"),
        Row("prefix/out/weight", "cls_embedding.cap_proj.fc2.weight", "d c -> c d"),
        *_llamagen(),
    )


def _llamagen() -> Table:
    return (
        Row("embed/table", "tok_embeddings.weight"),
        *_blocks("stack/blocks", "layers.{layer}"),
        Row("norm/scale", "norm.weight"),
        Row("head/weight", "output.weight", "v d -> d v"),
    )


def ibq(section: Any) -> Table:
    """IBQ's, the names of its module alone."""
    del section
    block, theirs = "stack/blocks/{attention,ffn}_modulation", "blocks.{layer}.ada_lin.1"
    return (
        Row("prefix/embed/table", "class_emb.embedding_table.weight"),
        Row("embed/table", "tok_emb.weight"),
        *_blocks("stack/blocks", "blocks.{layer}"),
        # Gates of attention and feed-forward, then scales, then shifts.
        Row(f"{block}/weight", f"{theirs}.weight", "(k 2 d) c -> 2 c k d"),
        Row(f"{block}/bias", f"{theirs}.bias", "(k 2 d) -> 2 k d"),
        Row("norm/norm/scale", "head_nm.rmsnorm.weight"),
        # Scale and shift, in this order.
        Row("norm/modulation/weight", "head_nm.ada_lin.1.weight", "(k d) c -> c k d"),
        Row("norm/modulation/bias", "head_nm.ada_lin.1.bias", "(k d) -> k d"),
        Row("head/weight", "head.weight", "v d -> d v"),
    )


def open_magvit2(section: Any) -> Table:
    """Open-MAGVIT2's, the names of its module alone."""
    del section
    rows = [
        Row("prefix/embed/table", "class_emb.embedding_table.weight"),
        *_blocks("stack/blocks", "spatial_blocks.{layer}"),
        *_blocks("head/stack/blocks", "factorized_blocks.{layer}"),
        Row("head/stack_norm/scale", "norm.weight"),
    ]
    for factor, theirs in enumerate(("pre_emb", "post_emb")):
        rows.append(Row(f"embed/tables_{factor}/table", f"{theirs}.weight"))
        rows.append(Row(f"head/factors_{factor}/weight", f"head.{factor}.weight", "v d -> d v"))
    return tuple(rows)


def ibq_lightning(section: Any) -> Table:
    """A .ckpt of IBQ's training, which has the tokenizer too."""
    return _in_lightning(ibq(section))


def open_magvit2_lightning(section: Any) -> Table:
    """A .ckpt of Open-MAGVIT2's training, which has the tokenizer too."""
    return _in_lightning(open_magvit2(section))


def _in_lightning(table: Table) -> Table:
    return (*(Row(row.ours, f"transformer.{row.theirs}", row.how) for row in table), ELSE)


def _blocks(ours: str, theirs: str) -> Table:
    pair = f"{ours}/attention/{{query,key,value}}/weight"
    out = "d (n h) -> n h d"
    return (
        Row(f"{ours}/attention_norm/scale", f"{theirs}.attention_norm.weight"),
        Row(pair, f"{theirs}.attention.wqkv.weight", HEADS),
        Row(f"{ours}/attention/out/weight", f"{theirs}.attention.wo.weight", out),
        Row(f"{ours}/ffn_norm/scale", f"{theirs}.ffn_norm.weight"),
        Row(f"{ours}/ffn/gate/weight", f"{theirs}.feed_forward.w1.weight", "f d -> d f"),
        Row(f"{ours}/ffn/up/weight", f"{theirs}.feed_forward.w3.weight", "f d -> d f"),
        Row(f"{ours}/ffn/down/weight", f"{theirs}.feed_forward.w2.weight", "d f -> f d"),
    )
