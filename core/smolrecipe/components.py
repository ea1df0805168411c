"""The descriptors that plugins offer: frozen, light, with callables that import their engines only when called.

Every descriptor has a ``name`` (what a recipe writes after ``use:``), a frozen attrs class of ``options``, a one-line
``summary`` and a ``source``: the paper, equation or code it follows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Literal

from attrs import field, frozen

if TYPE_CHECKING:
    from smolrecipe.data import TokenRows
    from smolrecipe.generation import Answering, Candidate
    from smolrecipe.model import HfConfig, ModelDraft
    from smolrecipe.options import Use
    from smolrecipe.preference import PreferenceBatch, PreferenceLoss
    from smolrecipe.proof import Proof
    from smolrecipe.stage import Artifact, StageContext


@frozen
class NoOptions:
    """The options of a component that has none."""


def _nothing(options: Any) -> Iterable[str]:
    return ()


@frozen(kw_only=True)
class Component:
    """What all descriptors share.

    ``check(options)`` yields a sentence for each thing that is wrong with the options taken together, on any machine.
    ``missing(options)`` yields one for each thing that they point at and that is not on this machine, such as a file:
    the recipe is valid, and only running it here is refused. Both must be quick and import no engine.

    ``example`` has options as a recipe writes them, as few as make one: what the reference shows and what the
    conformance kit tries the component with.

    ``requires`` names the top-level modules that running it imports and that a plain installation lacks, ``extra`` the
    extra (of the plugin's distribution) that installs them: a recipe that uses the component where they are missing is
    refused with that remedy.

    ``fingerprint(options)`` identifies what a result depends on besides the options, the plugin and the content of the
    paths among them: data that a source reads, a module that an option names. It is part of the stage's digest: the
    same text as long as these are the same, whatever the machine; it must be quick and import no engine.
    """

    name: str
    options: type = NoOptions
    summary: str
    source: str = ""
    check: Callable[[Any], Iterable[str]] = _nothing
    missing: Callable[[Any], Iterable[str]] = _nothing
    fingerprint: Callable[[Any], str] = lambda options: ""
    requires: tuple[str, ...] = ()
    extra: str = ""
    example: Mapping[str, Any] = field(factory=dict, eq=False)  # descriptors are hashed, mappings are not


@frozen(kw_only=True)
class Devices:
    """What a stage needs to run: ``processes`` in all, one accelerator each where ``device`` is ``cuda``."""

    processes: int = 1
    device: Literal["cpu", "cuda"] = "cpu"
    memory_gib: float | None = None
    """Memory of one accelerator that the published layout was sized for."""


@frozen(kw_only=True)
class DryRun:
    """What the first device of a stage's layout would hold and compute, found without weights and without a step.

    Bytes are those of one device at the peak of a step: weights, gradients, optimizer state, what the forward pass
    keeps for the backward pass, and ``other_bytes``, the largest buffers that come and go besides (gathered weights,
    logits and their gradient).
    """

    parameters: int
    """Of the whole model; a tied matrix counts once."""
    devices: int
    weight_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    activation_bytes: int
    other_bytes: int
    flops_per_token: float
    """Floating point operations of a training step per token: 6 for each parameter that tokens are multiplied with (an
    embedding that is only looked up is none), and attention over what a causal query sees, half of the row on average.
    """
    tokens_per_step: int
    steps: int

    @property
    def bytes(self) -> int:
        """All of one device's."""
        return self.weight_bytes + self.gradient_bytes + self.optimizer_bytes + self.activation_bytes + self.other_bytes


@frozen(kw_only=True)
class Workload:
    """What a stage amounts to, as far as its options and those of the stages before it tell: nothing is built or read.

    ``None`` is what they do not tell, as the steps of a number of epochs over data that nobody has counted yet.
    """

    steps: int | None = None
    """Optimizer steps of this stage."""
    last_step: int | None = None
    """The number of its last step, where it counts on from the stage before; ``None`` for ``steps``."""
    schedule_steps: int | None = None
    """The steps that its learning-rate schedule is laid out for; ``None`` for ``last_step``."""
    tokens_per_step: int | None = None
    """Over all processes; of both rows of a pair."""
    tokens: int | None = None
    """In all; ``None`` for ``steps`` times ``tokens_per_step``."""
    at_most: bool = False
    """Whether the tokens are an upper bound, because rows may be shorter than ``row_length``."""
    row_length: int | None = None
    """Tokens of the longest row."""
    model: HfConfig | None = None
    """What ``config.json`` of the model that it trains or makes says, for its size, its attention and its rotation."""
    flops_per_token: float | None = None
    """Counted as ``DryRun.flops_per_token``; ``None`` to have it follow from ``model`` and ``row_length``."""
    more_work: float = 0.0
    """What is computed besides forward and backward pass, as a share of them: a third each for activations that are
    computed again and for a frozen reference model."""
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    """Of the matrix products."""
    trains_on: Mapping[str, Use[Source]] = field(factory=dict)
    """The sources whose rows are learned, or made into what a later stage learns, by the option that names each."""
    measures_on: Mapping[str, Use[Source]] = field(factory=dict)
    """The sources that something is measured on, by the option that names each."""
    generates: Generation | None = None
    """What models write in it; ``None`` where none does."""


@frozen(kw_only=True)
class Generation:
    """What a stage has models write, as far as options tell: ``None`` is what they do not."""

    answers: int | None = None
    """Of all models together."""
    tokens: int | None = None
    """At most, of all answers; prompts do not count."""
    hours: float | None = None
    """At the speeds that the recipe states."""
    cost: float | None = None
    """US dollars at most, for answers at the prices that the recipe states."""


def _one_cpu_process(options: Any) -> Devices:
    return Devices()


@frozen(kw_only=True)
class StageKind(Component):
    """A kind of stage: ``run(options, context)`` does the work in processes of its own and returns what it made.

    ``produces(options)`` names what the artifact holds, for stages that consume it: ``"tokenizer"``, ``"tokens"``,
    ``"checkpoint"`` (the training engine's own), ``"hf-model"``, ``"scores"`` (``scores`` in its record's summary: by
    model and task, mappings with ``score``, ``metric``, ``stderr`` and ``samples``). A reason instead of a true value
    says why these options do not produce it: ``{"hf-model": "component 'x' has no Hugging Face counterpart"}``. A
    checkpoint that is published besides the final one is ``"hf-model@<name>"``; recipes write ``from: stage@<name>``.

    ``verify(options, context)`` compares what a stage of this kind has published with what its options ask for, by
    means that are independent of how it was made; it only reads. ``dry_run(options)`` builds the stage's layout
    without its weights. Both run in a process of their own.

    ``workload(options, parents)`` says what the stage amounts to, for ``smolrecipe plan``; ``parents`` has the workload
    of each stage that it consumes, by name. It must be quick and import no engine.

    ``imports(reference)`` makes the options of a stage that brings in a model from outside the recipe, which recipes
    write in place of a stage's name: a folder (``./base``) or a name on the Hub (``org/name``, ``org/name@revision``).
    One kind of stage may offer it.
    """

    run: Callable[[Any, StageContext], Artifact]
    produces: Callable[[Any], Mapping[str, Literal[True] | str]]
    devices: Callable[[Any], Devices] = _one_cpu_process
    verify: Callable[[Any, StageContext], Iterable[Proof]] | None = None
    dry_run: Callable[[Any], DryRun] | None = None
    workload: Callable[[Any, Mapping[str, Workload]], Workload] | None = None
    imports: Callable[[str], Any] | None = None


@frozen(kw_only=True)
class ModelComponent(Component):
    """A part of the decoder.

    ``apply(draft, options)`` edits the draft in place. ``to_hf(config, options)`` edits the content of a Hugging Face
    ``config.json`` in place and must be light; ``None`` says that the component has no counterpart there, and then no
    later stage may ask for a Hugging Face checkpoint. ``max_positions(options)`` is the longest sequence that the
    component allows, ``None`` where it sets no bound.

    ``from_hf(config)`` is the way back: the options with which ``to_hf`` writes what a ``config.json`` says, ``None``
    for a config without this component. So a checkpoint that was made elsewhere can be assembled from components.

    ``after`` names components whose work this one builds on: where a recipe has both, it lists them first.
    ``check_draft(options, draft)`` yields a sentence for each reason why the component cannot be part of what the draft
    is built for (device, sequence length, context or tensor parallelism); there is no decoder in it yet.

    ``apply`` depends on the draft and the options alone, shares no config object between drafts or layers, refuses a
    draft without a decoder unless it makes one, and applied a second time gives the same model or a ``StageError``.
    What it leaves is a causal model of torchtitan modules that FSDP2 and, unless ``check_draft`` refuses it, tensor
    parallelism can shard; parameters that it brings have a name in ``draft.hf_parameters`` where there is a ``to_hf``.
    The conformance kit tries it on a decoder of 4 layers, width 64, 4 heads and a vocabulary of 128, which its
    ``example`` must fit.
    """

    apply: Callable[[ModelDraft, Any], None]
    to_hf: Callable[[HfConfig, Any], None] | None
    max_positions: Callable[[Any], int | None] = lambda options: None
    from_hf: Callable[[HfConfig], Any | None] | None = None
    after: tuple[str, ...] = ()
    check_draft: Callable[[Any, ModelDraft], Iterable[str]] = lambda options, draft: ()


@frozen(kw_only=True)
class ParameterGroup:
    """Parameters in whose name the regular expression ``pattern`` is found get ``settings``; the first match wins.

    It is looked for anywhere in the name, as ``re.search`` does.
    """

    pattern: str
    settings: Mapping[str, Any]


@frozen(kw_only=True)
class Optimizer(Component):
    """An optimizer: ``factory(options)`` returns its ``torch.optim.Optimizer`` class, ``groups(options)`` its parameter
    groups with the keyword arguments of each, ``lr`` among them.

    Patterns are looked for in the engine's parameter names, so they must know both torchtitan's
    (``tok_embeddings.weight``) and Hugging Face's (``model.embed_tokens.weight``): together they take every parameter,
    and each into the same settings by either name.

    What ``factory`` returns is called with a list of torch's parameter groups, to which torchtitan adds
    ``param_names``, and leaves them as they are. Steps take no closure, leave out parameters without a gradient, and
    obey ``group["lr"]`` and ``group["weight_decay"]`` as they are then: at a rate of 0 nothing moves. A first step
    makes all state there will be, with gradients of 0 too, in ``state[parameter]``: plain data, from which it resumes
    bit for bit. Parameters may be DTensors, shared along their first dimension (FSDP2), and step as whole ones do.
    """

    factory: Callable[[Any], Any]
    groups: Callable[[Any], Sequence[ParameterGroup]]


@frozen(kw_only=True)
class Schedule(Component):
    """A learning-rate schedule: ``factor(options, step, steps)`` multiplies the peak rate in a step.

    Steps count from 1; ``step`` and ``steps`` count over a whole trajectory, which may span stages. Every step up to
    ``steps`` has a finite factor of at least 0, however long the trajectory is, also where options count steps of their
    own. It depends on nothing else, so that a resumed run sees the same rates; it takes no engine, and no time.
    """

    factor: Callable[[Any, int, int], float]


@frozen(kw_only=True)
class Loss(Component):
    """A preference loss: ``loss(batch, options)`` is a plain function of tensors (see ``smolrecipe.preference``).

    With ``needs_reference=False`` no reference model is ever loaded and the batch's reference log-probabilities are
    ``None``.
    """

    loss: Callable[[PreferenceBatch, Any], PreferenceLoss]
    needs_reference: bool = True


@frozen(kw_only=True)
class Source(Component):
    """A data source: ``read(options)`` yields its rows one by one, always the same in the same order.

    A row is new each time and holds JSON values only. Where the data are out of reach, because there is no network or
    no such file, ``read`` raises a ``StageError``.

    ``yields(options)`` says their shape: ``"text"``, ``"chat"``, ``"preference"`` or ``"problem"`` (see
    ``smolrecipe.data``). ``fingerprint(options)`` identifies the data behind the options, without reading all of it
    where that would be slow (``smolrecipe.file_hashes`` reads a large file once). A source that has one speaks for the
    files among its options; of one that has none their content counts.

    ``origins(options)`` names where the rows come from, as a data set and its split: two sources that share a name may
    read the same rows, whatever shape they give them. Without it only sources with the same options do.
    """

    read: Callable[[Any], Iterable[Mapping[str, Any]]]
    yields: Callable[[Any], str]
    origins: Callable[[Any], Iterable[str]] | None = None


@frozen(kw_only=True)
class Packer(Component):
    """How token files become training samples.

    ``open(options, context, sequence_length, seed, start)`` returns the samples; ``start`` is the ``position`` that an
    earlier stage ended at, or ``None``, and that stage's rows may have had another length. Inputs are only read.

    A sample holds tokens of training documents and nothing that fills it up. A pass reads every token of a source once,
    but for a tail that fills no row, before any is read again. Where documents end, their index says; no token does.
    The conformance kit writes token files of the sources ``web`` and ``code`` for the stage that an ``example`` names.

    ``verify(options, context, sequence_length, seed, start, samples)`` compares the first ``samples`` samples of what
    ``open`` returns for the same arguments, which are those that a stage has trained on, with the token files and with
    the options; it only reads. Stages whose data is a packer's call it from their own ``verify``.
    """

    open: Callable[[Any, StageContext, int, int, Mapping[str, int] | None], TokenRows]
    verify: Callable[[Any, StageContext, int, int, Mapping[str, int] | None, int], Iterable[Proof]] | None = None


@frozen(kw_only=True)
class Generator(Component):
    """An engine that answers conversations with one model: a teacher.

    ``open(options, context)`` makes the model ready, once in each process, and returns a context manager whose value
    answers requests (see ``smolrecipe.generation``); leaving it lets go of the model. A stage opens one at a time.

    ``options`` derive from ``smolrecipe.sampling.SamplingOptions`` and name the model: a ``StageRef`` with
    ``needs="hf-model"`` for one that is loaded, so that recipes may write a stage, a folder or a name on the Hub; with
    its revision, so that the digest tells which.

    ``device(options)`` is where one process' model computes. ``model(options)`` is what rows of its answers name as
    their origin. ``hours(options, tokens)`` and ``cost(options, tokens)`` are what so many tokens of answers take, in
    one process and in US dollars, where the options state a speed and a price, else ``None``.
    """

    open: Callable[[Any, StageContext], AbstractContextManager[Answering]]
    model: Callable[[Any], str]
    device: Callable[[Any], Literal["cpu", "cuda"]] = lambda options: "cpu"
    hours: Callable[[Any, int], float | None] = lambda options, tokens: None
    cost: Callable[[Any, int], float | None] = lambda options, tokens: None


@frozen(kw_only=True)
class RowFilter(Component):
    """What rows that models wrote must hold to be kept.

    ``open(options, context)`` returns ``judge(candidate)``: "" for a row to keep, else why it is dropped, in a few
    words that are the same for all rows dropped for that reason: they are counted by it. Rows come in the order of
    their prompts, those that an earlier filter dropped left out, so that a judge may compare them with those before.
    """

    open: Callable[[Any, StageContext], Callable[[Candidate], str]]


@frozen(kw_only=True)
class Tracker(Component):
    """Where metrics go besides ``metrics.jsonl``: ``open(options, context)`` returns ``log(event)`` for rank 0.

    ``log`` takes every event that a stage reports, with keys and numbers (``nan``) that it may not know, and leaves it
    as it is. Files go below ``context.folder``. A stage that goes on after an interruption opens its trackers again, in
    the folder that they have left, and reports some steps once more.
    """

    open: Callable[[Any, StageContext], Callable[[Mapping[str, Any]], None]]


@frozen(kw_only=True)
class Launcher(Component):
    """How a stage's processes start.

    ``capacity(options)`` says what it can start at most, ``None`` for what it cannot know; ``command(options, devices,
    worker)`` returns the command line that runs ``worker`` (a Python module with its arguments) in that many
    processes, each with RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT set where there are several.
    ``environment(options, devices)`` is laid over this process' own for that command. No shell reads the command; it
    ends when all processes have, soon after one fails, and then not with 0.
    """

    capacity: Callable[[Any], Mapping[str, int] | None]
    command: Callable[[Any, Devices, Sequence[str]], Sequence[str]]
    environment: Callable[[Any, Devices], Mapping[str, str]] = lambda options, devices: {}


KINDS: Mapping[type[Component], str] = {
    StageKind: "stage kind",
    ModelComponent: "model component",
    Optimizer: "optimizer",
    Schedule: "schedule",
    Loss: "loss",
    Source: "source",
    Packer: "packer",
    Generator: "generator",
    RowFilter: "filter",
    Tracker: "tracker",
    Launcher: "launcher",
}
"""What each descriptor class is called in messages."""
