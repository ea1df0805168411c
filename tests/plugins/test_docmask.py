"""Intra-document masking: the mask, what it computes, and which backend runs where."""

import os
import subprocess
import sys
from importlib.machinery import ModuleSpec
from itertools import pairwise
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import and_masks, create_block_mask, flex_attention
from torchtitan.models.common.attention import (
    FlexAttention,
    ScaledDotProductAttention,
    VarlenAttention,
    get_causal_mask_mod,
    get_efficient_causal_mask_mod_for_packed_document,
)
from torchtitan.models.common.config_utils import make_gqa_config
from torchtitan.models.common.rope import CosSinRoPE
from torchtitan.models.llama3.model import Llama3Model, Llama3TransformerBlock

import smolrecipe_docmask
from smolrecipe import ModelDraft, StageError
from smolrecipe_docmask import DocmaskOptions
from smolrecipe_docmask.dense import DenseDocumentAttention
from smolrecipe_docmask.documentwise import DocumentwiseAttention

(DOCMASK,) = smolrecipe_docmask.smolrecipe_model_components()
ROWS = ([5, 1, 10, 8], [24])
"""Lengths of the documents in the two rows of the batch."""
HEADS, KV_HEADS, WIDTH = 4, 2, 8


def positions():
    return torch.stack([torch.cat([torch.arange(length) for length in row]) for row in ROWS])


def inputs(seed=0):
    """Queries, keys and values of shape (B, L, N, H)."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(2, 24, heads, WIDTH) for heads in (HEADS, KV_HEADS, KV_HEADS)]
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]


def attend(q, k, v, way=DenseDocumentAttention.build_mask, **kwargs):
    module = DocumentwiseAttention.Config().build()
    return module(q, k, v, attention_masks=way(positions()), enable_gqa=True, **kwargs)


WAYS = pytest.mark.parametrize(
    "way", [DenseDocumentAttention.build_mask, DocumentwiseAttention.document_lengths], ids=["mask", "lengths"]
)


def one_document_at_a_time(q, k, v, scale=None):
    """The same attention without any mask but causality: each document on its own."""
    rows = []
    for row, lengths in enumerate(ROWS):
        parts = zip(*(x[row : row + 1].transpose(1, 2).split(lengths, dim=2) for x in (q, k, v)), strict=True)
        done = [F.scaled_dot_product_attention(*part, is_causal=True, scale=scale, enable_gqa=True) for part in parts]
        rows.append(torch.cat(done, dim=2).transpose(1, 2))
    return torch.cat(rows)


def draft(device="cpu", context_parallel=1, num_layers=2):
    layers = [
        Llama3TransformerBlock.Config(
            attention_norm=None,
            ffn_norm=None,
            attention=make_gqa_config(
                dim=16,
                n_heads=2,
                wqkv_param_init={},
                wo_param_init={},
                inner_attention=ScaledDotProductAttention.Config(),
                rope=CosSinRoPE.Config(dim=8, max_seq_len=32),
            ),
        )
        for _ in range(num_layers)
    ]
    decoder = Llama3Model.Config(dim=16, lm_head=None, tok_embeddings=None, norm=None, layers=layers)
    return ModelDraft(device=device, sequence_length=24, context_parallel=context_parallel, decoder=decoder)


def test_mask_lets_a_token_see_its_own_document_up_to_itself():
    mask = DenseDocumentAttention.build_mask(positions())
    assert mask.shape == (2, 1, 24, 24)
    assert mask.dtype == torch.bool
    for row, lengths in enumerate(ROWS):
        document = [number for number, length in enumerate(lengths) for _ in range(length)]
        for query in range(24):
            for key in range(24):
                assert mask[row, 0, query, key] == (document[query] == document[key] and key <= query)


def test_a_row_that_starts_within_a_document_is_still_a_document():
    mask = DenseDocumentAttention.build_mask(torch.tensor([[7, 8, 0, 1]]))
    assert mask[0, 0].int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]


def test_a_slice_of_queries_sees_the_same_keys():
    """What a device under context parallelism asks for: its own queries, everybody's keys."""
    whole = DenseDocumentAttention.build_mask(positions())
    for start in (0, 6, 18):
        part = DenseDocumentAttention.build_mask(positions(), query_start=start, query_length=6)
        assert torch.equal(part, whole[:, :, start : start + 6])
    assert torch.equal(DenseDocumentAttention.build_mask(positions(), query_start=6), whole[:, :, 6:])


def test_documents_have_their_lengths_row_after_row():
    lengths = DocumentwiseAttention.document_lengths(positions())
    assert lengths == (*ROWS[0], *ROWS[1])
    assert DocumentwiseAttention.document_lengths(torch.tensor([[7, 8, 0, 1], [3, 4, 5, 6]])) == (2, 2, 4)


def test_the_positions_are_left_as_they_are():
    given = torch.tensor([[7, 8, 0, 1]])
    DocumentwiseAttention.document_lengths(given)
    assert given.tolist() == [[7, 8, 0, 1]]


@WAYS
@pytest.mark.parametrize("scale", [None, 0.5])
def test_packed_rows_equal_their_documents_one_at_a_time(scale, way):
    ours, theirs = attend(*inputs(), way, scale=scale), one_document_at_a_time(*inputs(), scale=scale)
    # Sums over up to 24 keys in another order of blocks: a few float32 roundings of values around 1.
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@WAYS
def test_gradients_equal_those_of_the_documents_one_at_a_time(way):
    weight = torch.randn(2, 24, HEADS, WIDTH)
    ours, theirs = inputs(), inputs()
    (attend(*ours, way) * weight).sum().backward()
    (one_document_at_a_time(*theirs) * weight).sum().backward()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-5, atol=1e-5)


@WAYS
def test_other_documents_and_the_future_do_not_change_one_bit(way):
    """Replace everything but the third document's first six tokens: their outputs and gradients stay."""
    kept = slice(6, 12)
    results = []
    for seed in (1, 2):
        tensors = inputs(seed=0)
        for tensor, other in zip(tensors, inputs(seed), strict=True):
            with torch.no_grad():
                outside = torch.ones(24, dtype=torch.bool)
                outside[kept] = False
                tensor[0, outside] = 100 * other[0, outside]
        out = attend(*tensors, way)[0, kept]
        out.square().sum().backward()
        assert all(not tensor.grad[0, :6].any() and not tensor.grad[0, 12:].any() for tensor in tensors)
        results.append([out, *(tensor.grad[0, kept] for tensor in tensors)])
    for first, second in zip(*results, strict=True):
        assert torch.equal(first, second)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_agrees():
    """torchtitan's document mask for FlexAttention, run by torch's reference implementation on the CPU."""
    q, k, v = (x.detach() for x in inputs())
    mods = and_masks(get_causal_mask_mod(), get_efficient_causal_mask_mod_for_packed_document(positions()))
    blocks = create_block_mask(mods, 2, None, 24, 24, device="cpu")
    theirs = flex_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), block_mask=blocks, enable_gqa=True)
    torch.testing.assert_close(attend(q, k, v), theirs.transpose(1, 2), rtol=1e-5, atol=1e-6)


def test_no_mask_is_an_error_and_not_full_attention():
    with pytest.raises(ValueError, match="build_mask"):
        DenseDocumentAttention.Config().build()(*inputs())


@pytest.mark.parametrize(
    ("device", "context_parallel", "backend", "expected"),
    [
        ("cpu", 1, "auto", DocumentwiseAttention),
        ("cpu", 2, "auto", DocumentwiseAttention),
        ("cuda", 1, "auto", VarlenAttention),
        ("cuda", 4, "auto", FlexAttention),
        ("cuda", 1, "sdpa", DenseDocumentAttention),
        ("cuda", 1, "flex", FlexAttention),
        ("cuda", 1, "varlen", VarlenAttention),
    ],
)
def test_backend_follows_the_hardware(device, context_parallel, backend, expected):
    edited = draft(device, context_parallel)
    DOCMASK.apply(edited, DocmaskOptions(backend=backend))
    configs = [layer.attention.inner_attention for layer in edited.decoder.layers]
    assert [type(config) for config in configs] == [expected.Config] * 2
    assert configs[0] is not configs[1]


@pytest.mark.parametrize(
    ("device", "context_parallel", "backend", "complaint"),
    [
        ("cpu", 1, "flex", "no backward pass on a CPU: use backend: auto or sdpa"),
        ("cpu", 1, "varlen", "no kernel on a CPU"),
        ("cpu", 1, "flash", "no kernel on a CPU"),
        ("cuda", 2, "varlen", "use backend: auto or flex"),
        ("cuda", 2, "flash", "use backend: auto or flex"),
    ],
)
def test_backends_that_do_not_run_there_are_refused(device, context_parallel, backend, complaint):
    """When the recipe is checked, by the very sentence with which it would be refused later."""
    options = DocmaskOptions(backend=backend)
    planned = ModelDraft(device=device, sequence_length=24, context_parallel=context_parallel)
    (sentence,) = DOCMASK.check_draft(options, planned)
    assert complaint in sentence
    with pytest.raises(StageError) as refused:
        DOCMASK.apply(draft(device, context_parallel), options)
    assert str(refused.value) == sentence


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("context_parallel", [1, 4])
@pytest.mark.parametrize("backend", ["auto", "sdpa", "flex", "varlen"])
def test_what_the_check_lets_pass_is_built(device, context_parallel, backend):
    options = DocmaskOptions(backend=backend)
    planned = ModelDraft(device=device, sequence_length=24, context_parallel=context_parallel)
    refused = list(DOCMASK.check_draft(options, planned))
    if not refused:
        DOCMASK.apply(draft(device, context_parallel), options)
    assert bool(refused) == (
        (device, backend) in {("cpu", "flex"), ("cpu", "varlen")} or (backend == "varlen" and context_parallel > 1)
    )


def test_the_check_imports_no_engine():
    code = (
        "import sys, smolrecipe, smolrecipe_docmask as d; (c,) = d.smolrecipe_model_components(); "
        "list(c.check_draft(d.DocmaskOptions(), smolrecipe.ModelDraft(device='cpu', sequence_length=8))); "
        "print('torch' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


def test_drafts_that_cannot_take_it_are_refused():
    with pytest.raises(StageError, match="'decoder'"):
        DOCMASK.apply(ModelDraft(device="cpu", sequence_length=8), DocmaskOptions())
    stranger = draft()
    stranger.decoder.layers[1].attention = object()
    with pytest.raises(StageError, match="layer 1"):
        DOCMASK.apply(stranger, DocmaskOptions())


def test_flash_attention_library_missing(monkeypatch):
    monkeypatch.setattr("smolrecipe_docmask.backends.find_spec", lambda name: None)
    with pytest.raises(StageError, match=r"smolrecipe\[flash\]"):
        DOCMASK.apply(draft("cuda"), DocmaskOptions(backend="flash"))


def test_flash_attention_library_gets_the_documents_that_torchtitan_found(monkeypatch):
    """The library needs CUDA, so its one function is stood in for by its documented contract, written out."""

    def flash_attn_varlen_func(
        q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0, softmax_scale=None,
        causal=False, window_size=(-1, -1), softcap=0.0, alibi_slopes=None, deterministic=False,
    ):  # fmt: skip
        assert causal
        assert dropout_p == 0.0
        assert window_size == (-1, 0)
        assert q.dtype == k.dtype == v.dtype == torch.bfloat16
        assert cu_seqlens_q.dtype == torch.int32
        assert torch.equal(cu_seqlens_q, cu_seqlens_k)
        bounds = cu_seqlens_q.tolist()
        assert max_seqlen_q == max_seqlen_k == max(end - start for start, end in pairwise(bounds))
        done = []
        for start, end in pairwise(bounds):
            part = [x[start:end].transpose(0, 1)[None] for x in (q, k, v)]
            out = F.scaled_dot_product_attention(*part, is_causal=True, scale=softmax_scale, enable_gqa=True)
            done.append(out[0].transpose(0, 1))
        return torch.cat(done)

    library = ModuleType("flash_attn")
    library.__spec__ = ModuleSpec("flash_attn", loader=None)
    library.flash_attn_varlen_func = flash_attn_varlen_func
    monkeypatch.setitem(sys.modules, "flash_attn", library)
    monkeypatch.delitem(sys.modules, "smolrecipe_docmask.flash", raising=False)

    edited = draft("cuda")
    DOCMASK.apply(edited, DocmaskOptions(backend="flash"))
    config = edited.decoder.layers[0].attention.inner_attention
    assert isinstance(config, VarlenAttention.Config), "torchtitan's trainer builds masks for this class"
    model = Llama3Model.__new__(Llama3Model)
    object.__setattr__(model, "config", edited.decoder)
    masks = model.get_attention_masks(positions())
    ours = config.build()(*inputs(), attention_masks=masks, enable_gqa=True)
    assert ours.dtype == torch.float32
    # bfloat16 keeps 8 bits: inputs, probabilities and sums each round by up to 2**-9 of values around 1.
    torch.testing.assert_close(ours, attend(*inputs()), rtol=2e-2, atol=2e-2)


def test_hugging_face_config_stays_as_it_is():
    config = {"model_type": "smollm3"}
    DOCMASK.to_hf(config, DocmaskOptions())
    assert config == {"model_type": "smollm3"}
    assert DOCMASK.from_hf is None, "no config says how training rows were packed"
