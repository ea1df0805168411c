"""The hooks that a plugin may implement.

A plugin is an importable object (usually a package) named by an entry point in the group ``smolrecipe``::

    [project.entry-points.smolrecipe]
    simpo = "smolrecipe_simpo"

It implements the hooks it wants with ``@smolrecipe.hookimpl``. The plural hooks are called once and collected into the
catalog; two plugins that offer one name are an error that names both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pluggy

from smolrecipe.components import (
    Generator,
    Launcher,
    Loss,
    ModelComponent,
    Optimizer,
    Packer,
    RowFilter,
    Schedule,
    Source,
    StageKind,
    Tracker,
    Workload,
)
from smolrecipe.errors import Problem
from smolrecipe.options import Model
from smolrecipe.proof import Proof
from smolrecipe.stage import Artifact, StageContext

if TYPE_CHECKING:
    import click

    from smolrecipe.planning.plan import Plan

PROJECT = "smolrecipe"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def smolrecipe_stages() -> Iterable[StageKind]:
    """Offer stage kinds, which a recipe names with ``use:`` under ``stages:``.

    Example::

        @frozen(kw_only=True)
        class NoteOptions:
            text: str = option(doc="what is written down")


        def write(options, context):
            (context.folder / "note.txt").write_text(options.text)
            return Artifact(summary={"characters": len(options.text)})


        @smolrecipe.hookimpl
        def smolrecipe_stages():
            yield StageKind(name="note", summary="write a note", options=NoteOptions, example={"text": "hello"},
                            run=write, produces=lambda options: {"note": True})
    """
    raise NotImplementedError


@hookspec
def smolrecipe_model_components() -> Iterable[ModelComponent]:
    """Offer model components, which a recipe names with ``use:`` under ``model:``.

    Example::

        @frozen(kw_only=True)
        class NormEpsilonOptions:
            eps: float = option(default=1e-5, more_than=0, doc="added to the mean square of the activations")


        def apply(draft, options):
            for layer in draft.layers("norm_epsilon"):
                layer.attention_norm.eps = layer.ffn_norm.eps = options.eps
            draft.decoder.norm.eps = options.eps


        def to_hf(config, options):
            config["rms_norm_eps"] = options.eps


        @smolrecipe.hookimpl
        def smolrecipe_model_components():
            yield ModelComponent(name="norm_epsilon", summary="the epsilon of all RMS norms",
                                 source="arXiv:1910.07467", options=NormEpsilonOptions, apply=apply, to_hf=to_hf,
                                 after=("decoder",))
    """
    raise NotImplementedError


@hookspec
def smolrecipe_optimizers() -> Iterable[Optimizer]:
    """Offer optimizers.

    Example::

        @frozen(kw_only=True)
        class SgdOptions:
            lr: float = option(default=0.1, more_than=0, doc="peak learning rate, which the schedule multiplies")


        def factory(options):
            from torch.optim import SGD

            return SGD


        @smolrecipe.hookimpl
        def smolrecipe_optimizers():
            yield Optimizer(name="sgd", summary="plain gradient descent", source="torch.optim.SGD",
                            options=SgdOptions, factory=factory,
                            groups=lambda options: [ParameterGroup(pattern=".*", settings={"lr": options.lr})])
    """
    raise NotImplementedError


@hookspec
def smolrecipe_schedules() -> Iterable[Schedule]:
    """Offer learning-rate schedules.

    Example::

        @smolrecipe.hookimpl
        def smolrecipe_schedules():
            yield Schedule(name="constant", summary="the peak rate throughout",
                           source="torch.optim.lr_scheduler.ConstantLR, factor 1",
                           factor=lambda options, step, steps: 1.0)
    """
    raise NotImplementedError


@hookspec
def smolrecipe_losses() -> Iterable[Loss]:
    """Offer preference losses.

    Example::

        @frozen(kw_only=True)
        class CpoOptions:
            beta: float = option(default=0.1, more_than=0, doc="scale of the rewards")


        def cpo(batch, options):
            from torch.nn.functional import logsigmoid

            chosen, rejected = options.beta * batch.policy_chosen, options.beta * batch.policy_rejected
            return PreferenceLoss(losses=-logsigmoid(chosen - rejected), chosen_rewards=chosen.detach(),
                                  rejected_rewards=rejected.detach())


        @smolrecipe.hookimpl
        def smolrecipe_losses():
            yield Loss(name="cpo", summary="contrastive preference optimization, without its cloning term",
                       source="arXiv:2401.08417, L_prefer", options=CpoOptions, loss=cpo, needs_reference=False)
    """
    raise NotImplementedError


@hookspec
def smolrecipe_sources() -> Iterable[Source]:
    """Offer data sources.

    Example::

        @frozen(kw_only=True)
        class CountingOptions:
            rows: int = option(default=100, at_least=1, doc="how many rows")


        def read(options):
            for number in range(options.rows):
                yield {"text": f"{number} and one are {number + 1}."}


        @smolrecipe.hookimpl
        def smolrecipe_sources():
            yield Source(name="counting", summary="counting, one row a number", options=CountingOptions, read=read,
                         yields=lambda options: "text")
    """
    raise NotImplementedError


@hookspec
def smolrecipe_packers() -> Iterable[Packer]:
    """Offer packing strategies: how token files become training samples.

    Example::

        @frozen(kw_only=True)
        class NoiseOptions:
            vocab_size: int = option(default=256, at_least=1, doc="tokens are drawn from 0 to vocab_size - 1")


        class Noise:
            def __init__(self, vocab_size, length, seed):
                self.vocab_size, self.length, self.seed = vocab_size, length, seed

            def draw(self, *key):
                import numpy

                tokens = numpy.random.default_rng((self.seed, *key)).integers(self.vocab_size, size=self.length + 1)
                return TokenRow(tokens, numpy.arange(self.length))

            def row(self, sample):
                return self.draw(0, sample)

            def held_out(self, rows):
                return [self.draw(1, row) for row in range(rows)]

            def position(self, samples):
                return {}

            def summary(self):
                return {}


        def open_noise(options, context, sequence_length, seed, start):
            return Noise(options.vocab_size, sequence_length, seed)


        @smolrecipe.hookimpl
        def smolrecipe_packers():
            yield Packer(name="noise", summary="random tokens, to measure speed without data", options=NoiseOptions,
                         open=open_noise)
    """
    raise NotImplementedError


@hookspec
def smolrecipe_generators() -> Iterable[Generator]:
    """Offer generators: engines that answer conversations with a model, for stages that make data with a teacher.

    Example::

        @frozen(kw_only=True)
        class EchoOptions(SamplingOptions):
            prefix: str = option(default="You said: ", doc="what every answer begins with")


        @contextlib.contextmanager
        def open_echo(options, context):
            def answer(requests):
                for request in requests:
                    words = (options.prefix + request.messages[-1]["content"]).split()[: options.max_new_tokens]
                    yield Answer(number=request.number, text=" ".join(words), tokens=len(words))

            yield answer


        @smolrecipe.hookimpl
        def smolrecipe_generators():
            yield Generator(name="echo", summary="repeat what was said, to try filters without a model",
                            options=EchoOptions, open=open_echo, model=lambda options: "echo")
    """
    raise NotImplementedError


@hookspec
def smolrecipe_filters() -> Iterable[RowFilter]:
    """Offer filters: what rows that models wrote must hold to be kept.

    Example::

        @frozen(kw_only=True)
        class PoliteOptions:
            word: str = option(default="please", doc="a word that every answer must have")


        def open_polite(options, context):
            def judge(candidate):
                return "" if options.word in candidate.answers[0] else f"without '{options.word}'"

            return judge


        @smolrecipe.hookimpl
        def smolrecipe_filters():
            yield RowFilter(name="polite", summary="keep answers with a certain word", options=PoliteOptions,
                            open=open_polite)
    """
    raise NotImplementedError


@hookspec
def smolrecipe_trackers() -> Iterable[Tracker]:
    """Offer trackers: where metrics go besides ``metrics.jsonl``.

    Example::

        @smolrecipe.hookimpl
        def smolrecipe_trackers():
            yield Tracker(name="print", summary="to standard output", open=lambda options, context: print)
    """
    raise NotImplementedError


@hookspec
def smolrecipe_launchers() -> Iterable[Launcher]:
    """Offer launchers: how a stage's processes start.

    Example::

        def command(options, devices, worker):
            launch = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(devices.processes), "-m"]
            return ["nice", sys.executable, "-m", *launch, *worker]


        @smolrecipe.hookimpl
        def smolrecipe_launchers():
            yield Launcher(name="nice", summary="CPU processes that give way to others", command=command,
                           capacity=lambda options: {"cuda": 0})
    """
    raise NotImplementedError


@hookspec
def smolrecipe_check_plan(plan: Plan) -> Iterable[Problem]:
    """Report what is wrong with a plan, before anything runs.

    Example::

        @smolrecipe.hookimpl
        def smolrecipe_check_plan(plan):
            for stage in plan.stages:
                if stage.name != stage.name.lower():
                    yield Problem(f"stage '{stage.name}': names are lower case here", stage.place)
    """
    raise NotImplementedError


@hookspec
def smolrecipe_warn_of_plan(
    plan: Plan, workloads: Mapping[str, Workload], published: Mapping[str, Path], most_epochs: float
) -> Iterable[Problem]:
    """Say what a careful colleague would ask about before a plan is paid for; it keeps nothing from running.

    Called by ``smolrecipe plan``. ``workloads`` has what each stage amounts to, by its name; ``published`` the folders
    of the artifacts that are in the run store, which may be read, a little of each. A source that is repeated up to
    ``most_epochs`` times is nothing to warn of.

    Example::

        @smolrecipe.hookimpl
        def smolrecipe_warn_of_plan(plan, workloads, published, most_epochs):
            for stage in plan.stages:
                if (workloads[stage.name].steps or 0) > 1_000_000:
                    yield Problem(f"stage '{stage.name}': more than a million steps", stage.place)
    """
    raise NotImplementedError


@hookspec
def smolrecipe_before_stage(run: StageContext) -> None:
    """Act before a stage that really runs (one that is published already does not).

    Called in the stage's own process on every rank.

    Example::

        @smolrecipe.hookimpl
        def smolrecipe_before_stage(run):
            print("starting", run.stage)
    """


@hookspec
def smolrecipe_after_stage(run: StageContext, artifact: Artifact) -> None:
    """Act after a stage that really ran, before its artifact is published.

    Called in the stage's own process on every rank.

    Example::

        @smolrecipe.hookimpl
        def smolrecipe_after_stage(run, artifact):
            (run.folder / "note.txt").write_text("done")
    """


@hookspec
def smolrecipe_verify_model(folder: Path, model: Model) -> Iterable[Proof]:
    """Compare a Hugging Face checkpoint with what this plugin knows of it; it only reads.

    ``folder`` holds safetensors, ``config.json`` and usually a tokenizer; ``model`` is what the installed model
    components read from its ``config.json``. Called by ``smolrecipe verify``, in a process of its own, for every
    checkpoint of a run and for one that was made elsewhere.

    Example::

        @smolrecipe.hookimpl
        def smolrecipe_verify_model(folder, model):
            size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
            yield Proof.within("the weights fit a phone", size / 2**30, 4, unit="GiB")
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def smolrecipe_find_recipe(reference: str) -> Path | None:
    """Return the file of the recipe that ``reference`` names, or ``None`` to let the next plugin look.

    Asked only for a reference that is neither a file nor a recipe that ships with smolrecipe.

    Example::

        @smolrecipe.hookimpl
        def smolrecipe_find_recipe(reference):
            if reference.startswith("team:"):
                return Path("/team/recipes") / reference.removeprefix("team:")
    """


@hookspec
def smolrecipe_commands(cli: click.Group) -> None:
    """Add commands to the command line.

    Called where commands are listed, and where one is called that is not smolrecipe's own. A command that takes long to
    import is added as a ``smolrecipe.commands.Later``. What ``smolrecipe.completing`` has completes a parameter in
    shells: ``shell_complete=complete_run``.

    Example::

        @smolrecipe.hookimpl
        def smolrecipe_commands(cli):
            @cli.command()
            def hello():
                click.echo("hello")
    """
